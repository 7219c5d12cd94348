"""TuRBO with one trust region, by Eriksson and others (2019), https://arxiv.org/abs/1910.01739

A box around the best point, longer where the score changes slowly, doubles after three improvements in a row and halves
after several failures; inside it one draw of a Gaussian process chooses the next point. The box is not stored: for
every suggestion it is computed from the scores, in the order of suggestion. Three things differ from
the paper, for scores with noise and weights that belong on 0 or 1:

* the centre is the point with the best posterior mean, not the best score;
* points outside the cube are clipped to its border;
* a box below the minimal length restarts at full size, and the process keeps all data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_merger.search.optimisers.base import Observations, SuggestFn
from bayes_merger.search.optimisers.bayesopt import standardised
from bayes_merger.search.optimisers.options import check_number
from bayes_merger.search.optimisers.thinning import thinned
from bayes_merger.search.space.cube import Array, derived_seed, generator, sobol_points
from bayes_merger.search.surrogates.ard_gp import ArdGP, fit

MAX_LENGTH = 1.6
MIN_LENGTH = 0.5**7
MIN_IMPROVEMENT = 1e-3
"""The least increase that counts as an improvement, of scores with a standard deviation of 1."""

MIN_SCORES = 4
"""With fewer scores there is nothing to fit, and points come from a Sobol sequence."""

PERTURBED = 20
"""About so many coordinates of the centre are perturbed at a time."""


@dataclass(frozen=True)
class Region:
    """Settings of :func:`turbo_proposal`; see :func:`bayes_merger.search.samplers.turbo`."""

    length: float
    successes: int
    failures: int
    candidates: int

    def __post_init__(self) -> None:
        check_number("length", self.length, MIN_LENGTH, MAX_LENGTH)
        check_number("successes", self.successes, 1, whole=True)
        check_number("failures", self.failures, 1, whole=True)
        check_number("candidates", self.candidates, 10, 5000, whole=True)


def turbo_proposal(settings: Region) -> SuggestFn:
    """The best of many points in the trust region, by one draw of the process."""

    def propose(observations: Observations, seed: int) -> Array:
        scored = np.isfinite(observations.scores)
        if scored.sum() < MIN_SCORES:
            spread_out: Array = sobol_points(derived_seed(seed), observations.slot, 1, observations.dimensions)[0]
            return spread_out
        scores = standardised(observations.scores[scored])
        length = region_length(scores, observations.searched[scored], settings)
        seen = thinned(observations)
        told = np.isfinite(seen.scores)
        process = fit(seen.points[told], standardised(seen.scores[told]))
        inside = candidates(process, length, settings.candidates, generator(seed, observations.slot))
        # Running trials have no score yet: condition on what the process predicts for them.
        mean, covariance = process.condition_on(seen.points[~told]).posterior(inside)
        best: Array = inside[int(np.argmax(_draw(mean, covariance, generator(seed, observations.slot, 1))))]
        return best

    return propose


def region_length(scores: Array, searched: NDArray[np.bool_], settings: Region) -> float:
    """The side of the trust region, in ranges, after these scores.

    Args:
        scores: in the order of suggestion, standardised.
        searched: one per score, whether the sampler chose the point: only these can succeed or fail.
        settings: its initial length, and how many successes and failures change it.
    """
    length, best, successes, failures = settings.length, -np.inf, 0, 0
    for score, suggested in zip(scores.tolist(), searched.tolist(), strict=True):
        better = score > best + MIN_IMPROVEMENT
        best = max(best, score)
        if not suggested:
            continue
        successes, failures = (successes + 1, 0) if better else (0, failures + 1)
        if successes == settings.successes:
            length, successes = min(2.0 * length, MAX_LENGTH), 0
        elif failures == settings.failures:
            length, failures = length / 2.0, 0
        if length < MIN_LENGTH:
            length, successes, failures = settings.length, 0, 0
    return length


def candidates(process: ArdGP, length: float, count: int, rng: np.random.Generator) -> Array:
    """Points of the trust region, each the centre with some coordinates perturbed: shape ``(count, dimensions)``."""
    dimensions = process.points.shape[1]
    mean = process.posterior(process.points)[0]
    reachable = ((process.points >= 0) & (process.points <= 1)).all(axis=1)
    best = np.flatnonzero(reachable)[np.argmax(mean[reachable])] if reachable.any() else int(np.argmax(mean))
    centre = process.points[best].clip(0.0, 1.0)
    sides = length * process.lengths / np.exp(np.log(process.lengths).mean())
    spread = sobol_points(int(rng.integers(2**32)), 0, count, dimensions) - 0.5
    moved = rng.random((count, dimensions)) < min(1.0, PERTURBED / dimensions)
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
