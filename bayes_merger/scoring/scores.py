"""The scores of one scorer: whatever it raises or returns, they are numbers or the trial fails."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

from bayes_merger.errors import BayesMergerError, TrialFailed, one_line
from bayes_merger.scoring.scorer import ImageToScore, Score, Scorer, sees_trial

LARGEST = 1e100
"""No raw score is greater than this: sums and squares of points are numbers still."""


def score_images(scorer: Scorer, images: Sequence[ImageToScore]) -> list[Score]:
    """The raw scores that one scorer gives to `images`, one each, in their order.

    Of a scorer that sees the whole trial, each picture has the trial's.

    Raises:
        TrialFailed: the scorer raised an error, gave NaN, infinity, a number without measure, something other than
            numbers, or not one for each image.
        BayesMergerError: what the scorer raised of this package's own, such as ``Paused``.
    """
    if not images:
        return []
    try:
        whole = len(images) * [scorer.score_trial(images)] if sees_trial(scorer) else None
        values = _numbers(scorer.name, whole or scorer.score(images))
    except BayesMergerError:
        raise
    except (Exception, SystemExit) as error:  # a scorer may be anybody's, and one picture is no reason to end a run
        said = one_line(error, longest=300) or type(error).__name__
        raise TrialFailed(f"scorer {scorer.name} raised {type(error).__name__}: {said}") from error
    if len(values) != len(images):
        raise TrialFailed(f"scorer {scorer.name} gave {len(values)} scores for {len(images)} images")
    scores = [
        Score(scorer.name, image.payload, image.index, image.seed, value)
        for image, value in zip(images, values, strict=True)
    ]
    for score in scores:
        check_finite(score)
    return scores


def _numbers(scorer: str, values: Sequence[float]) -> list[float]:
    """A scorer's result as plain numbers; arrays and tensors are accepted like lists."""
    try:
        if any(isinstance(value, str | bytes) for value in values):
            raise TypeError
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        given = reprlib.repr(values)
        raise TrialFailed(f"scorer {scorer} gave {given} instead of one number for each image") from error


def check_finite(score: Score) -> None:
    """Whether a score is a number that can be averaged.

    Raises:
        TrialFailed: it is not.
    """
    if not abs(score.value) <= LARGEST:  # NaN is not
        raise TrialFailed(f"scorer {score.scorer} gave {score.value} for image {score.index} of {score.payload}")
