"""Who wins a play-off: the strengths behind pairwise comparisons, by Bradley and Terry, with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_merger.search.space.cube import Array

SPREAD = 2.0
"""Standard deviation of strengths before anything is compared: the better of two merges would win 8 of 10 times."""


@dataclass(frozen=True)
class Strengths:
    """What comparisons say, in the order of the contestants.

    Attributes:
        strengths: differences are log odds of winning; their mean is 0.
        errors: posterior standard deviation of each.
    """

    strengths: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def champion(self) -> int:
        """The greatest strength; the first of equals."""
        return int(np.argmax(np.round(self.strengths, 9)))


def bradley_terry(count: int, outcomes: Sequence[tuple[int, int, float]]) -> Strengths:
    """Strengths t, of which i beats j with probability s(t_i - t_j), s(x) = 1 / (1 + exp(-x)).

    They maximise, by Newton's method,

        sum over comparisons of  w log s(t_i - t_j) + (1 - w) log s(t_j - t_i)   -   sum_i t_i^2 / (2 SPREAD^2)

    where w is 1 if i won, 0 if j did and 1/2 if neither; the last term keeps the strength of one that always won
    finite. The errors are the roots of the diagonal of the inverse of minus the second derivative. See Bradley and
    Terry (1952), Biometrika 39, 324-345, and Caron and Doucet (2012), arXiv:1011.1761, for the prior.

    Args:
        count: of contestants, at least one.
        outcomes: i, j and w of every comparison.
    """
    strengths: Array = np.zeros(count)
    curvature = np.eye(count) / SPREAD**2
    for _ in range(100):
        slope = -strengths / SPREAD**2
        curvature = np.eye(count) / SPREAD**2
        for i, j, won in outcomes:
            chance = 1.0 / (1.0 + np.exp(strengths[j] - strengths[i]))
            slope[[i, j]] += np.array([1.0, -1.0]) * (won - chance)
            curvature[np.ix_([i, j], [i, j])] += chance * (1.0 - chance) * np.array([[1.0, -1.0], [-1.0, 1.0]])
        step = np.linalg.solve(curvature, slope)
        strengths = strengths + step
        if np.abs(step).max() < 1e-12:
            break
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return Strengths(tuple(strengths.tolist()), tuple(errors.tolist()))
