"""TuRBO with one trust region, by Eriksson and others (2019), https://arxiv.org/abs/1910.01739

A box around the best point, longer where the score changes slowly, doubles after three improvements in a row and halves
after several failures; inside it one draw of a Gaussian process chooses the next point. The box is not stored: it is
worked out from the scores, in the order in which they were asked for, for every suggestion. Three things differ from
the paper, for scores with noise and weights that belong on 0 or 1:

* the centre is the point with the best posterior mean, not the best score;
* what a box reaches over the border lands on it;
* a box that has shrunk to nothing begins again at full size and keeps what was learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_merger.search.optimisers.base import Observations, SuggestFn
from bayes_merger.search.optimisers.bayesopt import standardised
from bayes_merger.search.optimisers.options import check_number
from bayes_merger.search.space.cube import Array, derived_seed, generator, sobol_points
from bayes_merger.search.surrogates.ard_gp import ArdGP, fit

LONGEST = 1.6
SHORTEST = 0.5**7
SURE = 1e-3
"""An improvement must be this much, where the scores' standard deviation is 1."""

LEAST = 4
"""With fewer scores there is nothing to fit; points are then spread evenly."""

MOVED = 20
"""About so many coordinates of the centre are moved at a time."""


@dataclass(frozen=True)
class Region:
    """Settings of :func:`turbo_proposal`; see :func:`bayes_merger.search.samplers.turbo`."""

    length: float
    successes: int
    failures: int
    candidates: int

    def __post_init__(self) -> None:
        check_number("length", self.length, SHORTEST, LONGEST)
        check_number("successes", self.successes, 1, whole=True)
        check_number("failures", self.failures, 1, whole=True)
        check_number("candidates", self.candidates, 10, 5000, whole=True)


def turbo_proposal(settings: Region) -> SuggestFn:
    """The best of many points in the trust region, by one draw of the process."""

    def propose(observations: Observations, seed: int) -> Array:
        scored = np.isfinite(observations.scores)
        if scored.sum() < LEAST:
            even: Array = sobol_points(derived_seed(seed), observations.slot, 1, observations.dimensions)[0]
            return even
        scores = standardised(observations.scores[scored])
        process = fit(observations.points[scored], scores)
        length = region_length(scores, observations.searched[scored], settings)
        inside = candidates(process, length, settings.candidates, generator(seed, observations.slot))
        # Running trials have no score yet: condition on what the process predicts for them.
        mean, covariance = process.condition_on(observations.points[~scored]).posterior(inside)
        best: Array = inside[int(np.argmax(_draw(mean, covariance, generator(seed, observations.slot, 1))))]
        return best

    return propose


def region_length(scores: Array, searched: NDArray[np.bool_], settings: Region) -> float:
    """The side of the trust region, in ranges, after these scores.

    Args:
        scores: in the order in which they were asked for, standardised.
        searched: one per score, whether the sampler chose the point: only these can succeed or fail.
        settings: where it starts, and how many successes and failures change it.
    """
    length, best, successes, failures = settings.length, -np.inf, 0, 0
    for score, own in zip(scores.tolist(), searched.tolist(), strict=True):
        better = score > best + SURE
        best = max(best, score)
        if not own:
            continue
        successes, failures = (successes + 1, 0) if better else (0, failures + 1)
        if successes == settings.successes:
            length, successes = min(2.0 * length, LONGEST), 0
        elif failures == settings.failures:
            length, failures = length / 2.0, 0
        if length < SHORTEST:
            length, successes, failures = settings.length, 0, 0
    return length


def candidates(process: ArdGP, length: float, count: int, rng: np.random.Generator) -> Array:
    """Points of the trust region, each the centre with some coordinates moved: shape ``(count, dimensions)``."""
    dimensions = process.points.shape[1]
    mean = process.posterior(process.points)[0]
    within = ((process.points >= 0) & (process.points <= 1)).all(axis=1)
    best = np.flatnonzero(within)[np.argmax(mean[within])] if within.any() else int(np.argmax(mean))
    centre = process.points[best].clip(0.0, 1.0)
    sides = length * process.lengths / np.exp(np.log(process.lengths).mean())
    spread = sobol_points(int(rng.integers(2**32)), 0, count, dimensions) - 0.5
    moved = rng.random((count, dimensions)) < min(1.0, MOVED / dimensions)
    moved[np.arange(count), rng.integers(dimensions, size=count)] = True
    points: Array = np.where(moved, centre + sides * spread, centre).clip(0.0, 1.0)
    return points


def _draw(mean: Array, covariance: Array, rng: np.random.Generator) -> Array:
    """One draw from a normal distribution; rounding may have made its covariance a little less than positive."""
    normal = rng.standard_normal(len(mean))
    jitter = 1e-8
    while True:
        try:
            return np.asarray(mean + np.linalg.cholesky(covariance + jitter * np.eye(len(mean))) @ normal)
        except np.linalg.LinAlgError:
            jitter *= 10.0
