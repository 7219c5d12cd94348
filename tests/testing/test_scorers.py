"""The shipped contract of a scorer: ours keep it, and a scorer that breaks it is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import ImageStat

from bayes_merger.scoring import ClipScorer, ClipTower, ImageToScore, Scorer, ScorerBase
from bayes_merger.testing.scorers import ScorerContract
from tests.scoring.conftest import tiny_clip  # noqa: F401


class Brightness(ScorerBase):
    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        return [ImageStat.Stat(image.image.convert("L")).mean[0] / 25.5 for image in images]


class TestBrightness(ScorerContract):
    @pytest.fixture
    def scorer(self) -> Scorer:
        return Brightness("brightness")


class TestClip(ScorerContract):
    @pytest.fixture
    def scorer(self, tiny_clip: tuple[Path, Path]) -> Scorer:  # noqa: F811
        config, weights = tiny_clip
        return ClipScorer(ClipTower(None, config=config, weights=weights, device="cpu"))


class Ranks(ScorerBase):
    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        return [float(number) for number, _ in enumerate(images)]


def test_a_score_that_depends_on_the_batch_is_found(tmp_path: Path) -> None:
    contract = ScorerContract()
    contract.test_it_gives_one_number_for_each_picture_of_any_size(Ranks("ranks"), tmp_path)
    with pytest.raises(AssertionError):
        contract.test_the_order_and_the_company_of_a_picture_do_not_change_its_score(Ranks("ranks"), tmp_path)
