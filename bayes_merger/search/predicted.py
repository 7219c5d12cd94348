"""The merge that a search expects to be the best, tried or not: the top of the posterior mean over the whole cube.

The best trial is only the best of the points that happened to be tried. What is expected of a merge is a function of
the weights, and its top usually lies between them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from bayes_merger.search.optimisers.acquisition import LEADERS, UpperBound, top_of
from bayes_merger.search.optimisers.base import Observations, one_thread
from bayes_merger.search.optimisers.thinning import thinned
from bayes_merger.search.space.cube import Array, generator
from bayes_merger.search.surrogates.ensemble import evidence_of, fit_shared
from bayes_merger.search.surrogates.posterior import MIN_TRIALS

CANDIDATES, STARTS = 1000, 8
"""So many points are looked at, and the best so many climb."""


@dataclass(frozen=True)
class Predicted:
    """What is expected of a point.

    Attributes:
        point: shape ``(D,)``, in the unit cube; :func:`bayes_merger.search.space.cube.to_values` gives its values.
        mean: posterior mean of its score without noise, in the units of the scores.
        sd: posterior standard deviation of that.
    """

    point: Array
    mean: float
    sd: float


def predicted_point(observations: Observations, seed: int) -> Predicted | None:
    """The point of the greatest posterior mean, whichever optimiser made the observations.

    Args:
        observations: of one objective, from :func:`bayes_merger.search.optimisers.base.observations_of`.
        seed: of the study.

    Returns:
        The point, the same for the same observations and seed; None with fewer scores than a process needs.
    """
    if np.isfinite(observations.scores).sum() < MIN_TRIALS:
        return None
    seen = thinned(observations)
    rng = generator(seed, seen.slot, zlib.crc32(b"predicted"))
    with one_thread():
        ensemble = fit_shared(evidence_of(seen.points, seen.scores, seen.pictures, seen.rater))
        leaders, _ = ensemble.leaders(LEADERS)
        point = top_of(UpperBound(ensemble, 0.0), leaders, rng, candidates=CANDIDATES, starts=STARTS)
        mean, sd = ensemble.predict(point[None])
    return Predicted(point, float(mean[0]), float(sd[0]))
