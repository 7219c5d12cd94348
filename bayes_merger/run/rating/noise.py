"""How far a rater's scores can be trusted: the noise of one score, from pictures that were asked twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bayes_merger.run.rating.awaiting import Answers
from bayes_merger.scoring.combination import Combination
from bayes_merger.scoring.scorer import Score

ENOUGH = 5
"""With fewer pictures asked twice nothing is said of a rater."""

ROUNDING = 1.0 / 12.0
"""Variance of a score that is rounded to whole points; nobody's is less, however well they repeat."""


@dataclass(frozen=True)
class RaterNoise:
    """What repeats tell.

    Attributes:
        sd: standard deviation of one score, in points.
        repeats: how many pictures were asked twice.
    """

    sd: float
    repeats: int

    def __str__(self) -> str:
        return f"your scores of one picture differ by {self.sd:.1f} points (standard deviation; {self.repeats} repeats)"


def rater_noise(answers: Answers) -> RaterNoise | None:
    """The noise of one score; None before there are enough repeats.

    Two scores x, y of one picture have the same mean and independent errors, so the variance of one is estimated by

        sd^2 = mean of (x - y)^2 / 2
    """
    pairs = answers.repeated()
    if len(pairs) < ENOUGH:
        return None
    return RaterNoise(math.sqrt(sum((x - y) ** 2 for x, y in pairs) / (2 * len(pairs))), len(pairs))


def score_variance(
    known: Combination, scores: Sequence[Score], scorer: str, noise: RaterNoise | None, *, together: bool
) -> float:
    """Variance of a trial's points that comes from its rater, in squared points.

    With g_k how much the points change with the rater's score of picture k, and s^2 the variance of one score,

        s^2 sum_k g_k^2 ,   or where one score was given to all pictures together   s^2 (sum_k g_k)^2

    Args:
        known: how scores become points.
        scores: raw, of all scorers.
        scorer: which of them is the rater.
        noise: of the rater.
        together: whether all pictures have one score.
    """
    value = known.value(scores)
    slopes = []
    for place, score in enumerate(scores):
        if score.scorer == scorer:
            step = 0.5 if score.value < 5 else -0.5
            moved = [*scores[:place], replace(score, value=score.value + step), *scores[place + 1 :]]
            slopes.append((known.value(moved) - value) / step)
    variance = max(noise.sd**2 if noise else 0.0, ROUNDING)
    return variance * (sum(slopes) ** 2 if together else sum(slope**2 for slope in slopes))
