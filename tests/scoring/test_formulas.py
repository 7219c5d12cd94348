"""Formulas on pictures whose values are known, and what was seen before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bayes_merger.errors import ConfigError
from bayes_merger.scoring import DuplicateScorer, FormulaScorer
from bayes_merger.scoring.formulas import (
    FORMULAS,
    clipped,
    colourfulness,
    contrast,
    distance,
    noise,
    perceptual_hash,
    sharpness,
)
from bayes_merger.testing.scorers import ScorerContract
from tests.scoring.pictures import judged
from tests.scoring.pictures import noise as noisy


def grey(levels: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(levels, dtype=np.uint8))


def smooth(seed: int) -> Image.Image:
    """A picture with shapes: noise, magnified."""
    return noisy(seed, (6, 6)).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("colour", ["black", "white", (10, 200, 30)])
def test_one_colour_is_no_picture(colour: str | tuple[int, int, int]) -> None:
    flat = Image.new("RGB", (20, 30), colour)
    assert (contrast(flat), sharpness(flat), noise(flat)) == (0, 0, 0)


def test_contrast_is_the_deviation_of_the_brightness() -> None:
    assert contrast(grey([[0, 100], [200, 100]])) == pytest.approx(70.7107, abs=1e-4)


def test_sharpness_is_the_logarithm_of_the_laplacians_variance() -> None:
    # Laplacians of the two inner pixels: 0 + 0 + 0 + 10 - 0 and 0 + 0 + 0 + 0 - 40; mean -15, variance 625
    assert sharpness(grey([[0, 0, 0, 0], [0, 0, 10, 0], [0, 0, 0, 0]])) == pytest.approx(2.79657, abs=1e-5)


def test_a_blurred_picture_is_less_sharp_and_less_noisy() -> None:
    picture = noisy(1, (64, 64))
    blurred = picture.filter(ImageFilter.GaussianBlur(2))
    assert sharpness(blurred) < sharpness(picture)
    assert noise(blurred) < noise(picture)


def test_noise_is_the_deviation_of_what_was_added() -> None:
    rows = np.linspace(40, 200, 400)[:, None] + np.zeros((1, 400))
    added = np.random.default_rng(0).normal(0, 5, rows.shape)
    assert noise(Image.fromarray((rows + added).round().astype(np.uint8))) == pytest.approx(5, rel=0.02)


def test_colourfulness_of_red_and_blue() -> None:
    half = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    # rg: 255, 0; yb: 127.5, -255; deviations 127.5 and 191.25, means 127.5 and -63.75
    assert colourfulness(half) == pytest.approx(229.853 + 0.3 * 142.549, abs=1e-2)
    assert colourfulness(Image.new("RGB", (4, 4), (90, 90, 90))) == 0


def test_clipped_counts_what_is_black_or_white() -> None:
    assert clipped(grey([[0, 2, 3], [252, 253, 255]])) == pytest.approx(4 / 6)
    assert clipped(Image.new("RGB", (2, 2), (255, 0, 0))) == 0


@pytest.mark.parametrize("name", sorted(FORMULAS))
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2)])
def test_no_picture_is_too_small(name: str, size: tuple[int, int]) -> None:
    assert FormulaScorer("x", name).score([judged(image=noisy(1, size))])[0] >= 0


def test_an_unknown_formula_is_named() -> None:
    with pytest.raises(ConfigError, match=r"scorers\.x\.formula: no 'sharpnes'; did you mean sharpness"):
        FormulaScorer("x", "sharpnes")


class TestSharpness(ScorerContract):
    @pytest.fixture
    def scorer(self) -> FormulaScorer:
        return FormulaScorer("sharpness", "sharpness", scale=(0, 4))


class TestDuplicates(ScorerContract):
    @pytest.fixture
    def scorer(self) -> DuplicateScorer:
        return DuplicateScorer("duplicates")


def test_a_hash_survives_what_does_not_change_a_picture() -> None:
    picture = smooth(1)
    found = perceptual_hash(picture)
    assert distance(found, perceptual_hash(picture.resize((70, 80)))) < 0.1
    assert distance(found, perceptual_hash(picture.point(lambda level: level * 0.9))) < 0.1
    others = [distance(found, perceptual_hash(smooth(seed))) for seed in range(2, 12)]
    assert min(others) > 0.2


def scored(scorer: DuplicateScorer, seed: int, candidate: str, payload: str = "portrait") -> float:
    return scorer.score([judged(0, image=smooth(seed), candidate=candidate, payload=payload)])[0]


def test_a_picture_is_compared_with_those_of_other_merges(tmp_path: Path) -> None:
    scorer = DuplicateScorer("duplicates")
    scorer.prepare(tmp_path)
    assert scored(scorer, 1, "a") == 1.0
    assert scored(scorer, 1, "a") == 1.0
    assert scored(scorer, 1, "b") == 0.0
    assert scored(scorer, 2, "c") > 0.2
    assert scored(scorer, 1, "d", payload="street") == 1.0


def test_what_was_seen_is_known_to_other_workers_and_after_a_kill(tmp_path: Path) -> None:
    one, two = DuplicateScorer("duplicates"), DuplicateScorer("duplicates")
    for scorer in (one, two):
        scorer.prepare(tmp_path)
    assert scored(one, 1, "a") == 1.0
    assert scored(two, 1, "b") == 0.0
    with (tmp_path / "hashes.jsonl").open("ab") as file:
        file.write(b'["portrait", 0, "x", "zz"]\n[1]\n{}\n[[[[\n\xff\n["portrait", 0, "cut sh')
    assert scored(two, 3, "c") > 0.2
    assert scored(one, 3, "d") == 0.0
    later = DuplicateScorer("duplicates")
    later.prepare(tmp_path)
    assert scored(later, 3, "e") == 0.0
