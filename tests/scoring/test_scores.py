"""Whatever a scorer returns or raises, its scores are numbers or the trial fails."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.errors import ConfigError, Paused, TrialFailed
from bayes_merger.scoring import ImageToScore, Score, ScorerBase, check_scorer, score_images
from bayes_merger.scoring.scores import prepare_scorers
from bayes_merger.scoring.weights import WeightFile
from tests.scoring.fixed import Fixed
from tests.scoring.pictures import judged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_fails_the_trial(value: float) -> None:
    with pytest.raises(TrialFailed, match=r"scorer fixed gave .* for image 0 of portrait"):
        score_images(Fixed(value), [judged()])


def test_judging_keeps_raw_scores_with_their_picture() -> None:
    assert score_images(Fixed(3, 4), [judged(0), judged(1)]) == [
        Score("fixed", "portrait", 0, 100, 3.0),
        Score("fixed", "portrait", 1, 101, 4.0),
    ]
    assert score_images(Fixed(), []) == []


def test_a_scorer_that_miscounts_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="1 scores for 2 images"):
        score_images(Fixed(3), [judged(0), judged(1)])


@pytest.mark.parametrize(
    "values", [None, 5, "57", ["5", "7"], [5, None], [[1, 2], [3, 4]], {"a": 5, "b": 7}, {0: 1, 1: 2}, {5, 7}]
)
def test_a_scorer_that_gives_something_else_than_numbers_fails_the_trial(values: Any) -> None:
    scorer = Fixed()
    scorer.values = values
    with pytest.raises(TrialFailed, match=r"scorer fixed gave .* instead of one number for each image"):
        score_images(scorer, [judged(0), judged(1)])


class Raising(Fixed):
    """A scorer of somebody's own that gives up."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no face found"), "scorer fixed raised ValueError: no face found"),
        (AssertionError(), "scorer fixed raised AssertionError: AssertionError"),
        (SystemExit(3), "scorer fixed raised SystemExit: 3"),
        (RuntimeError("two\nlines"), "scorer fixed raised RuntimeError: two lines"),
        (ValueError("\ud800 \x1b[31m"), r"scorer fixed raised ValueError: \? \?\[31m"),
        (MemoryError(), "scorer fixed raised MemoryError: MemoryError"),
    ],
)
def test_a_scorer_that_raises_fails_the_trial_with_its_reason(error: BaseException, said: str) -> None:
    with pytest.raises(TrialFailed, match=f"^{said}$") as found:
        score_images(Raising(error), [judged(0)])
    assert found.value.__cause__ is error


@pytest.mark.parametrize("error", [Paused("nobody is there"), KeyboardInterrupt()])
def test_a_wish_to_stop_is_no_failure(error: BaseException) -> None:
    with pytest.raises(type(error)):
        score_images(Raising(error), [judged(0)])


@pytest.mark.parametrize("value", [1e101, -1e308, 10**400])
def test_a_number_without_measure_fails_the_trial(value: float) -> None:
    with pytest.raises(TrialFailed):
        score_images(Fixed(value), [judged(0)])


class Spread(ScorerBase):
    """How much the pictures of a trial differ: the distance of the darkest and the brightest."""

    def score_trial(self, images: Sequence[ImageToScore]) -> float:
        means = [float(image.image.convert("L").resize((1, 1)).getpixel((0, 0))) for image in images]  # type: ignore[arg-type]
        return max(means) - min(means)


def test_a_scorer_that_sees_the_whole_trial_gives_all_its_pictures_one_number() -> None:
    scorer = check_scorer("scorers.spread", Spread("spread"))
    images = [judged(0), judged(1), judged(2)]
    scores = score_images(scorer, images)
    assert [one.index for one in scores] == [0, 1, 2]
    assert {one.value for one in scores} == {Spread("spread").score_trial(images)}
    assert score_images(scorer, []) == []


def test_a_trials_score_that_is_no_number_fails_the_trial() -> None:
    class Many(Spread):
        def score_trial(self, images: Sequence[ImageToScore]) -> Any:
            return [1.0, 2.0]

    with pytest.raises(TrialFailed, match=r"scorer many gave .* instead of one number"):
        score_images(check_scorer("scorers.many", Many("many")), [judged(0), judged(1)])


class Weighty(ScorerBase):
    """A scorer of some files."""

    def __init__(self, name: str, *addresses: str) -> None:
        super().__init__(name, 1.0, (0, 10))
        self.files = tuple(WeightFile(address, f"scorers.{name}.{number}") for number, address in enumerate(addresses))

    def prepare(self, folder: Path | None = None) -> None:
        for file in self.files:
            file.find()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        return [5.0] * len(images)


def test_where_a_file_cannot_be_fetched_all_that_are_missing_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path))
    (tmp_path / "here.pth").write_bytes(b"weights")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{free.getsockname()[1]}"
    first, second = Weighty("laion", f"{hub}/head", f"{hub}/tower"), Weighty("clip", f"{hub}/tower")
    with pytest.raises(ConfigError) as caught:
        prepare_scorers([Fixed(3), Weighty("own", str(tmp_path / "here.pth")), first, second])
    said = str(caught.value)
    assert said.startswith(f"scorers.laion.0: cannot fetch {hub}/head (")
    assert said.endswith(
        f"give scorers.laion.0=/path/to/head; missing too: {hub}/tower (scorers.laion.1= scorers.clip.0=)"
    )
    with pytest.raises(ConfigError, match=r"give scorers\.clip\.0=/path/to/tower$"):
        prepare_scorers([second])


@pytest.mark.parametrize("error", [RuntimeError("no weights"), SystemExit("no weights")])
def test_a_scorer_that_cannot_get_ready_is_one_line(error: BaseException) -> None:
    class Unready(Fixed):
        def prepare(self, folder: Path | None = None) -> None:
            raise error

    with pytest.raises(ConfigError, match=rf"^scorers\.fixed: its prepare raised {type(error).__name__}: no weights$"):
        prepare_scorers([Unready()])


def test_numbers_may_come_one_by_one() -> None:
    class Lazy(Fixed):
        def score(self, images: Sequence[ImageToScore]) -> Any:
            return (float(image.index) for image in images)

    assert [score.value for score in score_images(Lazy(), [judged(0), judged(1)])] == [0.0, 1.0]


def test_what_a_scorer_changes_besides_is_put_back(tmp_path: Path) -> None:
    class Careless(Fixed):
        def score(self, images: Sequence[ImageToScore]) -> list[float]:
            os.chdir(tmp_path)
            torch.set_default_dtype(torch.float64)
            images[0].image.thumbnail((8, 8))
            return [5.0]

    here, picture = Path.cwd(), judged(0)
    size = picture.image.size
    score_images(Careless(), [picture])
    assert (Path.cwd(), torch.get_default_dtype(), picture.image.size) == (here, torch.float32, size)
