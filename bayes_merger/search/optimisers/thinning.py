"""At most a few hundred of the observations, so that a suggestion costs the same after ten thousand trials."""

from __future__ import annotations

import numpy as np

from bayes_merger.search.optimisers.base import Observations
from bayes_merger.search.surrogates.kernels import squared_distances

MOST = 300
"""A Gaussian process costs the square of this in memory, and the cube in time."""

FIRST, LEADERS = 10, 5
"""Of the start design, which holds pure A, pure B and the even mix; and the best, around which most is to be known."""


def thinned(observations: Observations, most: int = MOST) -> Observations:
    """The observations, or, of more than ``most``, those that say most about where the best merges are.

    The first ten, the best third, the newest without a score (up to a fifth; most of them are being drawn), and the
    nearest to the best five.
    """
    count = len(observations.points)
    if count <= most:
        return observations
    scores = np.where(np.isfinite(observations.scores), observations.scores, -np.inf)
    ranked = np.argsort(-scores, kind="stable")
    chosen = np.zeros(count, dtype=bool)
    chosen[:FIRST] = True
    chosen[ranked[: most // 3]] = True
    chosen[np.flatnonzero(np.isinf(scores))[-(most // 5) :]] = True
    leaders = observations.points[ranked[:LEADERS]]
    distances = squared_distances(observations.points, leaders).min(axis=1)
    nearest = np.argsort(np.where(chosen, np.inf, distances), kind="stable")
    chosen[nearest[: most - chosen.sum()]] = True
    return observations.only(chosen)
