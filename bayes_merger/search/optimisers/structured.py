"""The optimiser made for merges: few trials, many weights, noisy scores, blocks that have an order.

Two strategies alternate. One is the upper confidence bound of a mixture of two Gaussian processes with one length scale
for all weights, one of which has a trend (:mod:`bayes_merger.search.surrogates.mixture`): it explores widely and does
not stall on a ridge. While there are few scores it makes all
suggestions, since they do not support a finer model. The other is an ensemble of Gaussian processes, weighted by
leave-one-out predictive density, which finds out which weights matter and exploits it. Both learn from all trials; on
the benchmark neither alone is as good from 40 trials on.

The ensemble has three members:

* one with a single length scale and a smooth landscape, for few trials;
* one with a length scale per weight, since few weights matter much;
* where the names of the weights contain blocks, one in which the length scales of neighbouring blocks are correlated,
  and slow basis functions over the blocks (their mean, the trend from the outside in, IN against OUT) have a kernel of
  their own.

The noise of a score is estimated from the pictures, whose prompts and seeds are the same in every trial, so that no
process fits the noise as signal. The next point maximises the expected improvement over the best posterior
mean. The optimisation starts at the best of many candidates: points anywhere, and the best trials with a few weights
moved or put on exactly 0 or 1, because in 26 dimensions a random point is never near an edge of the cube, where good
weights often are.

Expected improvement without underflow: Ament and others (2023), https://arxiv.org/abs/2310.20708; moving few
coordinates of the incumbent: Regis and Shoemaker (2013), https://doi.org/10.1080/0305215X.2012.687731
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

from bayes_merger.search.optimisers.base import Observations, SuggestFn, is_known
from bayes_merger.search.optimisers.thinning import LEADERS, thinned
from bayes_merger.search.space.cube import Array, generator
from bayes_merger.search.surrogates.block_gp import BlockGP, Prior, fit
from bayes_merger.search.surrogates.block_order import basis, correlation
from bayes_merger.search.surrogates.mixture import Mixture, fit_mixture
from bayes_merger.search.surrogates.noise import noise_variance_of_scores

MIN_SCORES_PER_WEIGHT = 1.5
"""With fewer scores per weight than this the ensemble makes no suggestions."""

KAPPA = 1.5
"""So many standard deviations are added to the mixture's mean."""

SHARED, SEPARATE = 0.05, 1.0
"""Standard deviation of the log length scales across weights: practically one for all, or one for each."""

NEIGHBOUR_SHARE = 0.5
"""Share of the variance of log length scales that neighbouring blocks have in common."""

MIN_WEIGHT = 0.03
"""A process with a smaller weight than this is left out."""


@dataclass(frozen=True)
class Structured:
    """Settings of :func:`structured_proposal`; see :func:`bayes_merger.search.samplers.structured`."""

    blocks: bool
    candidates: int
    starts: int


class Ensemble:
    """Several Gaussian processes as one: their mixture, described by its first two moments.

    With weights w_i, means m_i and standard deviations s_i at a point:

        mean = sum_i w_i m_i
        sd^2 = sum_i w_i (s_i^2 + m_i^2) - mean^2


    Args:
        processes: at least one.
        weights: one per process, adding up to 1.
    """

    def __init__(self, processes: list[BlockGP], weights: Array) -> None:
        self._processes = processes
        self._weights = weights

    def predict(self, points: Array) -> tuple[Array, Array]:
        """As :meth:`BlockGP.predict`."""
        each = [process.predict(points) for process in self._processes]
        mean = sum(b * m for b, (m, _) in zip(self._weights, each, strict=True))
        square = sum(b * (s**2 + m**2) for b, (m, s) in zip(self._weights, each, strict=True))
        return np.asarray(mean), np.sqrt(np.maximum(square - mean**2, 1e-10))

    def gradient(self, point: Array) -> tuple[float, float, Array, Array]:
        """As :meth:`BlockGP.gradient`."""
        if len(self._processes) == 1:
            return self._processes[0].gradient(point)
        # d mean = sum_i w_i dm_i ;  d sd = (sum_i w_i (s_i ds_i + m_i dm_i) - mean d mean) / sd
        each = [process.gradient(point) for process in self._processes]
        mean = sum(b * m for b, (m, _, _, _) in zip(self._weights, each, strict=True))
        mean_gradient = np.asarray(sum(b * u for b, (_, _, u, _) in zip(self._weights, each, strict=True)))
        square = sum(b * (s**2 + m**2) for b, (m, s, _, _) in zip(self._weights, each, strict=True))
        deviation = math.sqrt(max(square - mean**2, 1e-10))
        half = sum(b * (s * o + m * u) for b, (m, s, u, o) in zip(self._weights, each, strict=True))
        return mean, deviation, mean_gradient, np.asarray(half - mean * mean_gradient) / deviation


def structured_proposal(settings: Structured) -> SuggestFn:
    """Suggestions of the mixture and, once there are enough scores, of the ensemble in turns."""
    exploit = ensemble_proposal(settings)

    def explore(observations: Observations, seed: int) -> Array:
        rng = generator(seed, observations.slot)
        if not np.isfinite(observations.scores).any():
            return rng.random(observations.dimensions)
        model = model_of(observations)
        return top_of(model, observations, rng, kappa=KAPPA, candidates=settings.candidates, starts=settings.starts)

    def propose(observations: Observations, seed: int) -> Array:
        few = np.isfinite(observations.scores).sum() < MIN_SCORES_PER_WEIGHT * observations.dimensions
        return (explore if few or observations.slot % 2 else exploit)(thinned(observations), seed)

    return propose


def model_of(observations: Observations) -> Mixture:
    """The mixture fitted to the observations, of which at least one has a score."""
    return fit_mixture(observations.points, observations.scores, observations.pictures)


def top_of(
    model: Mixture, observations: Observations, rng: np.random.Generator, *, kappa: float, candidates: int, starts: int
) -> Array:
    """The point of the cube where the mixture's upper confidence bound is greatest, shape ``(D,)``.

    Args:
        model: the mixture.
        observations: to which it was fitted; the best of them by posterior mean are where candidates start from.
        rng: random numbers.
        kappa: how many standard deviations are added to the mean.
        candidates: points that are looked at.
        starts: how many of the best of them climb.
    """
    known = observations.points[np.isfinite(observations.scores)]
    leaders = known[np.argsort(-model.predict(known)[0], kind="stable")[:LEADERS]]
    points = spread_around(rng, leaders, candidates)
    cube = [(0.0, 1.0)] * observations.dimensions
    chosen = points[np.argsort(-model.bounds(points, kappa), kind="stable")[:starts]]
    tops = [minimize(model.descent, one, (kappa,), jac=True, bounds=cube, method="L-BFGS-B") for one in chosen]
    return np.clip(min(tops, key=lambda top: float(top.fun)).x, 0.0, 1.0)


def ensemble_proposal(settings: Structured) -> SuggestFn:
    """Greatest expected improvement over the best posterior mean, as the ensemble predicts it."""

    def propose(observations: Observations, seed: int) -> Array:
        rng = generator(seed, observations.slot)
        scored = np.isfinite(observations.scores)
        ensemble = fit_ensemble(observations, settings)
        means, _ = ensemble.predict(observations.points[scored])
        known = observations.points[scored]
        best = float(means.max())
        best_points = known[np.argsort(-means, kind="stable")[:5]]
        starts = spread_around(rng, best_points, settings.candidates)
        mean, deviation = ensemble.predict(starts)
        log_ei = log_improvement((mean - best) / deviation) + np.log(deviation)
        chosen = starts[np.argsort(-log_ei, kind="stable")[: settings.starts]]
        near_best = np.clip(best_points[:1] + 1e-3 * rng.standard_normal(best_points[:1].shape), 0.0, 1.0)
        return climbed(ensemble, best, np.concatenate([chosen, near_best]), observations.points)

    return propose


def fit_ensemble(observations: Observations, settings: Structured) -> Ensemble:
    """The processes, fitted to the scores; a trial without a score is given the score that each process predicts."""
    scored = np.isfinite(observations.scores)
    points, scores = observations.points[scored], observations.scores[scored]
    scores, unit = _standardised(scores)
    noise = noise_variance_of_scores(
        [pictures for pictures, one in zip(observations.pictures, scored, strict=False) if one],
        observations.scores[scored],
    )
    noise = None if noise is None or not unit else float(np.clip(noise / unit**2, 1e-4, 2.0))
    processes, densities = [], []
    for prior in priors(observations.names, observations.dimensions, noise, settings.blocks):
        fitted = fit(points, scores, prior)
        process = BlockGP(points, scores, fitted, prior.basis)
        densities.append(process.loo_log_density())
        if not scored.all():
            predicted = process.predict(observations.points[~scored])[0]
            all_points = np.concatenate([points, observations.points[~scored]])
            exact = np.arange(len(all_points)) >= len(points)
            process = BlockGP(all_points, np.concatenate([scores, predicted]), fitted, prior.basis, exact)
        processes.append(process)
    # w_i = exp(L_i) / sum_j exp(L_j), with L_i the leave-one-out log density of process i
    weights = np.exp(np.array(densities) - max(densities))
    weights /= weights.sum()
    kept = weights >= MIN_WEIGHT
    return Ensemble([p for p, one in zip(processes, kept, strict=True) if one], weights[kept] / weights[kept].sum())


def priors(names: tuple[str, ...], dimensions: int, noise: float | None, blocks: bool) -> list[Prior]:
    """The priors of the ensemble's processes."""
    independent = np.eye(dimensions)
    chosen = [Prior(SHARED, independent, noise=noise, smooth=True), Prior(SEPARATE, independent, noise=noise)]
    slow = basis(names) if blocks else None
    if slow is not None:
        related = (1.0 - NEIGHBOUR_SHARE) * independent + NEIGHBOUR_SHARE * correlation(names)
        chosen.append(Prior(SEPARATE, related, slow, noise))
    return chosen


def spread_around(rng: np.random.Generator, best_points: Array, count: int) -> Array:
    """Candidate starting points, shape ``(count, D)``: a third anywhere, the rest good points with few weights moved.

    Args:
        rng: random numbers.
        best_points: shape ``(L, D)``, of the best trials; candidates are clipped to the cube.
        count: how many.
    """
    dimensions = best_points.shape[1]
    near = count - count // 3
    moved = rng.random((near, dimensions)) < np.exp(rng.uniform(-math.log(dimensions), 0.0, (near, 1)))
    moved[np.arange(near), rng.integers(0, dimensions, near)] = True
    size = np.exp(rng.uniform(math.log(0.02), math.log(0.5), (near, 1)))
    base = best_points[rng.integers(0, len(best_points), near)]
    points = base + moved * size * rng.standard_normal((near, dimensions))
    snapped = moved & (rng.random((near, dimensions)) < 0.15)
    points = np.where(snapped, rng.integers(0, 2, (near, dimensions)), points)
    return np.asarray(np.concatenate([rng.random((count - near, dimensions)), np.clip(points, 0.0, 1.0)]))


def climbed(ensemble: Ensemble, best: float, starts: Array, known: Array) -> Array:
    """The best local maximum reached from the starts, within the cube, that is not a trial's point."""
    descent = _descent(ensemble, best)
    bounds = [(0.0, 1.0)] * starts.shape[1]
    best_point, least = starts[0], math.inf
    for start in starts:
        top = minimize(descent, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
        point = np.clip(top.x, 0.0, 1.0)
        if top.fun < least and not is_known(point, known):
            best_point, least = point, float(top.fun)
    return np.asarray(best_point)


def _descent(ensemble: Ensemble, best: float) -> Callable[[Array], tuple[float, Array]]:
    """Minus the logarithm of the expected improvement, and its gradient, shape ``(D,)``.

    With z = (mean - best) / sd and h(z) = pdf(z) + z cdf(z), whose derivative is cdf(z):

        log EI   = log h(z) + log sd
        d log EI = cdf(z) / h(z) dz + d sd / sd,   dz = (d mean - z d sd) / sd
    """

    def descent(point: Array) -> tuple[float, Array]:
        mean, deviation, mean_gradient, sd_gradient = ensemble.gradient(point)
        z = (mean - best) / deviation
        log_ei = float(log_improvement(np.array([z]))[0])
        share = math.exp(float(log_ndtr(z)) - log_ei)
        gradient = sd_gradient / deviation + share * (mean_gradient - z * sd_gradient) / deviation
        return -(log_ei + math.log(deviation)), -gradient

    return descent


def log_improvement(z: Array) -> Array:
    """``log(pdf(z) + z cdf(z))`` of the standard normal distribution, also where that underflows."""
    log_pdf = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    near = np.maximum(z, -1.0)
    usual = np.log(np.exp(-0.5 * near**2) / math.sqrt(2.0 * math.pi) + near * np.exp(log_ndtr(near)))
    far = np.minimum(z, -1.0)
    rest = far * erfcx(-far / math.sqrt(2.0)) * math.sqrt(math.pi / 2.0)  # -> -1 + 1 / z^2
    tail = np.where(far < -1e3, -2.0 * np.log(-far), np.log1p(np.maximum(rest, -1.0 + 1e-12)))
    return np.asarray(np.where(z > -1.0, usual, log_pdf + tail))


def _standardised(scores: Array) -> tuple[Array, float]:
    """The scores with mean 0 and variance 1, and their standard deviation; 0 if they are all the same."""
    size = float(np.abs(scores).max()) or 1.0  # scores may be as large as 1e200
    scaled = scores / size
    unit = float(scaled.std())
    if unit <= 1e-12:
        return np.zeros(len(scores)), 0.0
    return (scaled - scaled.mean()) / unit, unit * size
