"""The optimiser made for merges: few trials, many weights, noisy scores, blocks that have an order.

Two strategies take turns. One is the upper confidence bound of two processes with one length scale for all weights, one
of which has a trend: it explores widely and does not stall on a ridge. While there are few scores it makes all
suggestions, since they do not support a finer model. The other is the expected improvement of three processes that find
out which weights matter. Both learn from all trials, or from the most telling few hundred of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_merger.search.optimisers.acquisition import LEADERS, Acquisition, Improvement, UpperBound, top_of
from bayes_merger.search.optimisers.base import Observations, SuggestFn
from bayes_merger.search.optimisers.thinning import thinned
from bayes_merger.search.space.cube import Array, generator
from bayes_merger.search.surrogates.ensemble import evidence_of, fit_separate, fit_shared

MIN_SCORES_PER_WEIGHT = 1.5
"""With fewer scores per weight than this, the processes that find out which weights matter make no suggestions."""

KAPPA = 1.5
"""So many standard deviations are added to the mean."""


@dataclass(frozen=True)
class Structured:
    """Settings of :func:`structured_proposal`; see :func:`bayes_merger.search.samplers.structured`."""

    blocks: bool
    candidates: int
    starts: int


def structured_proposal(settings: Structured) -> SuggestFn:
    """The top of the upper confidence bound and, once there are enough scores, of the expected improvement in turns."""

    def propose(observations: Observations, seed: int) -> Array:
        rng = generator(seed, observations.slot)
        scores = np.isfinite(observations.scores).sum()
        if not scores:
            return rng.random(observations.dimensions)
        seen = thinned(observations)
        evidence = evidence_of(seen.points, seen.scores, seen.pictures, seen.rater)
        acquisition: Acquisition
        if scores < MIN_SCORES_PER_WEIGHT * observations.dimensions or observations.slot % 2:
            ensemble = fit_shared(evidence)
            leaders, _ = ensemble.leaders(LEADERS)
            acquisition = UpperBound(ensemble, KAPPA)
        else:
            ensemble = fit_separate(evidence, observations.names, blocks=settings.blocks)
            leaders, best = ensemble.leaders(LEADERS)
            acquisition = Improvement(ensemble, best)
        return top_of(acquisition, leaders, rng, candidates=settings.candidates, starts=settings.starts)

    return propose
