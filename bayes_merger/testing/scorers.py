"""The contract of a scorer: inherit it in a test file of your own, give it the scorer, and run pytest.

::

    import pytest
    from bayes_merger.testing.scorers import ScorerContract
    from brightness import Brightness

    class TestBrightness(ScorerContract):
        @pytest.fixture
        def scorer(self):
            return Brightness("brightness")
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bayes_merger.scoring.scorer import ImageToScore, Scorer, check_scorer, sees_trial
from bayes_merger.scoring.scores import score_images


def picture(index: int, size: tuple[int, int] = (40, 56), prompt: str = "a red cat") -> ImageToScore:
    """A picture of random pixels, another one for each index."""
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return ImageToScore("portrait", index, 100 + index, prompt, Image.fromarray(pixels), None, "candidate")


class ScorerContract:
    """What every scorer that asks no person promises.

    Attributes:
        tolerance: how much a score may depend on the other pictures of a batch, as a share of the scale; rounding
            differs between batches of different sizes.
    """

    tolerance = 1e-4

    @pytest.fixture
    def scorer(self) -> Scorer:
        """The scorer; a test class gives its own."""
        raise NotImplementedError("give the test class a fixture `scorer` that returns the scorer to test")

    def test_it_has_what_a_scorer_needs(self, scorer: Scorer) -> None:
        """Members and their types."""
        assert check_scorer(f"scorers.{scorer.name}", scorer) is scorer

    def test_it_gives_one_number_for_each_picture_of_any_size(self, scorer: Scorer, tmp_path: Path) -> None:
        """Also where it is prepared twice, as on resume."""
        scorer.prepare(tmp_path)
        scorer.prepare(tmp_path)
        scores = score_images(scorer, [picture(0), picture(1, (64, 64)), picture(2, (9, 120))])
        assert [score.scorer for score in scores] == 3 * [scorer.name]
        assert [score.index for score in scores] == [0, 1, 2]

    def test_the_order_and_the_company_of_a_picture_do_not_change_its_score(
        self, scorer: Scorer, tmp_path: Path
    ) -> None:
        """Pruning and workers show the same pictures in other batches."""
        if sees_trial(scorer):
            pytest.skip("judges whole trials")
        scorer.prepare(tmp_path)
        pictures = [picture(index) for index in range(3)]
        together = [score.value for score in score_images(scorer, pictures)]
        backwards = [score.value for score in score_images(scorer, pictures[::-1])]
        alone = [score_images(scorer, [image])[0].value for image in pictures]
        allowed = self.tolerance * abs(scorer.scale[1] - scorer.scale[0])
        assert together == pytest.approx(alone, abs=allowed)
        assert together == pytest.approx(backwards[::-1], abs=allowed)

    def test_a_trial_is_judged_alike_in_any_order(self, scorer: Scorer, tmp_path: Path) -> None:
        """Of a scorer that sees whole trials: pictures come in the order in which they were drawn."""
        if not sees_trial(scorer):
            pytest.skip("judges picture by picture")
        scorer.prepare(tmp_path)
        pictures = [picture(index) for index in range(3)]
        allowed = self.tolerance * abs(scorer.scale[1] - scorer.scale[0])
        assert scorer.score_trial(pictures) == pytest.approx(scorer.score_trial(pictures[::-1]), abs=allowed)
        score_images(scorer, pictures[:1])  # a payload may have a single picture
