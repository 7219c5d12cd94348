"""The model of the rater as a scorer: a hold-out that predicts, and answers where it is sure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.rater.memory import Memory
from bayes_merger.scoring.rater.scorer import ASSIST, RaterScorer
from bayes_merger.scoring.scorer import ImageToScore
from bayes_merger.testing.scorers import ScorerContract


class ColourTower:
    """A stand-in for CLIP: a picture is its mean colour, as a vector of length 1."""

    width = 4

    def prepare(self) -> None: ...

    def embed_images(self, images: Sequence[Image.Image]) -> Any:
        means: Any = [image.resize((1, 1), 4).getpixel((0, 0)) for image in images]
        colours = np.array([[*mean, 128] for mean in means], dtype=np.float64)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


def rater(folder: Path) -> RaterScorer:
    tower: Any = ColourTower()
    scorer = RaterScorer(tower)
    scorer.prepare(folder)
    return scorer


def picture(candidate: int, index: int) -> ImageToScore:
    rng = np.random.default_rng([candidate, index])
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    image = Image.new("RGB", (8, 8), colour)
    return ImageToScore("portrait", index, 100 + index, "a red cat", image, None, f"c{candidate}")


def liking(image: ImageToScore) -> float:
    """Somebody who likes red."""
    red, green, blue = image.image.getpixel((0, 0))  # type: ignore[misc]
    return round(5 + 4 * (red - (green + blue) / 2) / 255, 1)


def rated(folder: Path, merges: int) -> RaterScorer:
    """A model after so many merges of four pictures."""
    scorer, ledger = rater(folder), Ledger(folder / "ratings.jsonl")
    rng = np.random.default_rng(0)
    for candidate in range(merges):
        pictures = [picture(candidate, index) for index in range(4)]
        scorer.score(pictures)
        for one in pictures:
            score = float(np.clip(liking(one) + 0.5 * rng.normal(), 0, 10))
            ledger.record(one.candidate, one.payload, one.index, score, seed=one.seed)
    return scorer


class TestRater(ScorerContract):
    @pytest.fixture
    def scorer(self) -> Any:
        tower: Any = ColourTower()
        return RaterScorer(tower)


def test_before_the_first_ratings_it_says_what_is_neither_good_nor_bad(tmp_path: Path) -> None:
    scorer = rater(tmp_path)
    assert scorer.score([picture(0, 0), picture(0, 1)]) == [5.0, 5.0]
    assert scorer.check() is None
    assert scorer.answers([picture(0, 0)]) == {}


def test_it_learns_what_is_liked_and_says_how_well(tmp_path: Path) -> None:
    scorer = rated(tmp_path, 30)
    fresh = [picture(900 + number, 0) for number in range(40)]
    gaps = [score - liking(one) for score, one in zip(scorer.score(fresh), fresh, strict=True)]
    assert np.sqrt(np.mean(np.square(gaps))) < 0.5
    check = scorer.check()
    assert check is not None
    assert check.ratings == 120
    assert check.explained > 0.7
    assert check.error < 0.9


def test_a_merge_is_predicted_from_the_ratings_of_others(tmp_path: Path) -> None:
    scorer = rated(tmp_path, 12)
    own = [picture(3, index) for index in range(4)]
    before = scorer.score(own)
    for one in own:
        Ledger(tmp_path / "ratings.jsonl").record(one.candidate, one.payload, one.index, 0.0, seed=one.seed)
    assert scorer.score(own) == before


@pytest.mark.slow
def test_it_answers_where_it_is_surer_than_a_rating_and_writes_it_down(tmp_path: Path) -> None:
    scorer = rated(tmp_path, 40)
    fresh = [picture(number, 0) for number in range(900, 960)]
    found = {one.candidate: score for one in fresh for score in scorer.answers([one]).values()}
    assert 30 < len(found) < 60, "now and then a picture is asked that it would be sure of"
    gaps = [found[one.candidate] - liking(one) for one in fresh if one.candidate in found]
    assert np.sqrt(np.mean(np.square(gaps))) < 0.5
    assert Ledger(tmp_path / "ratings.jsonl").rating("c901", "portrait", 0) == found.get("c901")
    by_model = [rating for rating in Ledger(tmp_path / "ratings.jsonl").ratings() if rating.rater == ASSIST]
    assert len(by_model) == len(found)
    check = scorer.check()
    assert check is not None
    assert check.ratings == 160, "it learns nothing from its own answers"


@pytest.mark.slow
def test_after_a_kill_it_gives_the_answers_that_it_gave(tmp_path: Path) -> None:
    fresh = [picture(number, 0) for number in range(900, 930)]
    scorer = rated(tmp_path, 40)
    before = [scorer.answers([one]) for one in fresh]
    Ledger(tmp_path / "ratings.jsonl").record("c1", "portrait", 0, 0.0, seed=100)
    assert [rater(tmp_path).answers([one]) for one in fresh] == before
    person = next(one for one, answer in zip(fresh, before, strict=True) if answer)
    Ledger(tmp_path / "ratings.jsonl").record(person.candidate, "portrait", 0, 1.0, seed=100)
    assert rater(tmp_path).answers([person]) == {}, "what the person has said is the person's"


def test_it_is_sure_of_nothing_while_it_predicts_nothing(tmp_path: Path) -> None:
    scorer, ledger = rater(tmp_path), Ledger(tmp_path / "ratings.jsonl")
    rng = np.random.default_rng(0)
    for candidate in range(20):
        pictures = [picture(candidate, index) for index in range(4)]
        scorer.score(pictures)
        for one in pictures:
            ledger.record(one.candidate, one.payload, one.index, float(rng.integers(0, 11)), seed=one.seed)
    check = scorer.check()
    assert check is not None
    assert check.explained < 0.2
    assert [scorer.answers([picture(number, 0)]) for number in range(900, 920)] == [{}] * 20


def test_it_cannot_count_and_needs_a_study(tmp_path: Path) -> None:
    tower: Any = ColourTower()
    with pytest.raises(ConfigError, match=r"scorers\.rater\.importance: .* scoring\.assist=true"):
        RaterScorer(tower, importance=1.0)
    with pytest.raises(ConfigError, match="there is no study"):
        RaterScorer(tower).prepare()


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[1, 2, 3]",
        b'["c", "p", 0, 1, "not base64!"]',
        b'["c", "p", 0, 1, "AAAA"]',
        json.dumps(["c", "p", 0, 1, base64.b64encode(np.full(4, np.nan, "<f2").tobytes()).decode()]).encode(),
        json.dumps(["c", "p", 0, 1, base64.b64encode(np.zeros(4, "<f2").tobytes()).decode()]).encode(),
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_nobody_of_us_wrote_is_skipped(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.jsonl"
    memory = Memory(path, 4)
    memory.add([(("a", "p", 0, 1), np.array([0.0, 1.0, 0.0, 0.0]))])
    with path.open("ab") as file:
        file.write(line + b"\n" + line[: len(line) // 2])  # the last one is cut off
    Memory(path, 4).add([(("b", "p", 0, 1), np.array([1.0, 0.0, 0.0, 0.0]))])
    assert {key[0]: vector.tolist() for key, vector in memory.known().items()} == {
        "a": [0.0, 1.0, 0.0, 0.0],
        "b": [1.0, 0.0, 0.0, 0.0],
    }
