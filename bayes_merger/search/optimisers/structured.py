"""The optimiser made for merges: few trials, many weights, scores that are partly luck, blocks that have an order.

Two minds take turns. One is ``bayes``: a single process to which all weights are alike, and its upper confidence bound,
which is bold and does not stop on a ridge. While there are few scores it has all turns, since nothing finer can be
known. The other is a council, which sees which weights matter and goes for what it sees. What one tries, both learn
from; on the benchmark neither alone is as good from 40 trials on.

In the council three Gaussian processes look at the history, and how well each foresees decides how much it is believed:

* one in which all weights count alike and the landscape is smooth: with few trials nothing finer can be known;
* one with a length scale per weight: few weights matter much;
* where the names of the weights tell of blocks, one in which the length scales of neighbouring blocks are alike, and
  slow waves over the blocks (the mean of all, the slope from the outside in, IN against OUT) act of their own.

How much of a score is luck is read off the pictures, whose prompts and seeds are the same in every trial, so that no
process mistakes luck for a ridge. The next point is where the expected improvement over the best posterior mean is
greatest. Its climbs begin at the best of many candidates: points anywhere, and the best trials with a few weights moved
or put on exactly 0 or 1, because at 26 dimensions a random point is never near an edge of the cube, where weights like
to be.

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
from bayes_merger.search.optimisers.bayesopt import Tuned, tuned_proposal
from bayes_merger.search.space.cube import Array, generator
from bayes_merger.search.surrogates.block_gp import Prior, Process, fit
from bayes_merger.search.surrogates.block_order import likeness, waves
from bayes_merger.search.surrogates.noise import noise_variance_of_scores

FEW = 1.5
"""With fewer scores per weight than this the council is not asked."""

ALIKE, OWN = 0.05, 1.0
"""Spread of the weights' log length scales: practically none, and each its own."""

RELATED = 0.5
"""How much of a weight's own length scale its neighbours share."""

UNHEARD = 0.03
"""A process that is believed less than this is not asked."""


@dataclass(frozen=True)
class Structured:
    """Settings of :func:`structured_proposal`; told at :func:`bayes_merger.search.samplers.structured`."""

    blocks: bool
    candidates: int
    starts: int


class Council:
    """Several processes, each believed as much as it foresees; their mixture by its first two moments.

    Args:
        processes: at least one.
        beliefs: of each, adding up to 1.
    """

    def __init__(self, processes: list[Process], beliefs: Array) -> None:
        self._processes = processes
        self._beliefs = beliefs

    def predict(self, points: Array) -> tuple[Array, Array]:
        """As :meth:`Process.predict`."""
        each = [process.predict(points) for process in self._processes]
        mean = sum(b * m for b, (m, _) in zip(self._beliefs, each, strict=True))
        square = sum(b * (s**2 + m**2) for b, (m, s) in zip(self._beliefs, each, strict=True))
        return np.asarray(mean), np.sqrt(np.maximum(square - mean**2, 1e-10))

    def slope(self, point: Array) -> tuple[float, float, Array, Array]:
        """As :meth:`Process.slope`."""
        if len(self._processes) == 1:
            return self._processes[0].slope(point)
        each = [process.slope(point) for process in self._processes]
        mean = sum(b * m for b, (m, _, _, _) in zip(self._beliefs, each, strict=True))
        uphill = np.asarray(sum(b * u for b, (_, _, u, _) in zip(self._beliefs, each, strict=True)))
        square = sum(b * (s**2 + m**2) for b, (m, s, _, _) in zip(self._beliefs, each, strict=True))
        deviation = math.sqrt(max(square - mean**2, 1e-10))
        half = sum(b * (s * o + m * u) for b, (m, s, u, o) in zip(self._beliefs, each, strict=True))
        return mean, deviation, uphill, np.asarray(half - mean * uphill) / deviation


def structured_proposal(settings: Structured) -> SuggestFn:
    """What ``bayes`` proposes, or what a council does, in turn."""
    bold, keen = tuned_proposal(Tuned()), council_proposal(settings)

    def propose(evidence: Observations, seed: int) -> Array:
        few = np.isfinite(evidence.scores).sum() < FEW * evidence.dimensions
        return (bold if few or evidence.slot % 2 else keen)(evidence, seed)

    return propose


def council_proposal(settings: Structured) -> SuggestFn:
    """Greatest expected improvement over the best posterior mean, as a council of processes sees it."""

    def propose(evidence: Observations, seed: int) -> Array:
        rng = generator(seed, evidence.slot)
        told = np.isfinite(evidence.scores)
        council = convened(evidence, settings)
        means, _ = council.predict(evidence.points[told])
        known = evidence.points[told]
        best = float(means.max())
        leaders = known[np.argsort(-means, kind="stable")[:5]]
        starts = candidates(rng, leaders, settings.candidates)
        mean, deviation = council.predict(starts)
        height = log_improvement((mean - best) / deviation) + np.log(deviation)
        chosen = starts[np.argsort(-height, kind="stable")[: settings.starts]]
        nearby = np.clip(leaders[:1] + 1e-3 * rng.standard_normal(leaders[:1].shape), 0.0, 1.0)
        return climbed(council, best, np.concatenate([chosen, nearby]), evidence.points)

    return propose


def convened(evidence: Observations, settings: Structured) -> Council:
    """The processes, fitted to the scores there are; trials that lack one are taken to score what was foreseen."""
    told = np.isfinite(evidence.scores)
    points, scores = evidence.points[told], evidence.scores[told]
    scores, unit = _standardised(scores)
    noise = noise_variance_of_scores(
        [pictures for pictures, one in zip(evidence.pictures, told, strict=False) if one], evidence.scores[told]
    )
    noise = None if noise is None or not unit else float(np.clip(noise / unit**2, 1e-4, 2.0))
    processes, foresight = [], []
    for prior in priors(evidence.names, evidence.dimensions, noise, settings.blocks):
        found = fit(points, scores, prior)
        process = Process(points, scores, found, prior.waves)
        foresight.append(process.foresight())
        if not told.all():
            guessed = process.predict(evidence.points[~told])[0]
            everywhere = np.concatenate([points, evidence.points[~told]])
            exact = np.arange(len(everywhere)) >= len(points)
            process = Process(everywhere, np.concatenate([scores, guessed]), found, prior.waves, exact)
        processes.append(process)
    beliefs = np.exp(np.array(foresight) - max(foresight))
    beliefs /= beliefs.sum()
    heard = beliefs >= UNHEARD
    return Council([p for p, one in zip(processes, heard, strict=True) if one], beliefs[heard] / beliefs[heard].sum())


def priors(names: tuple[str, ...], dimensions: int, noise: float | None, blocks: bool) -> list[Prior]:
    """What the processes of the council believe before the first score."""
    strangers = np.eye(dimensions)
    found = [Prior(ALIKE, strangers, noise=noise, smooth=True), Prior(OWN, strangers, noise=noise)]
    slow = waves(names) if blocks else None
    if slow is not None:
        related = (1.0 - RELATED) * strangers + RELATED * likeness(names)
        found.append(Prior(OWN, related, slow, noise))
    return found


def candidates(rng: np.random.Generator, leaders: Array, count: int) -> Array:
    """Points where a climb may begin, shape ``(count, D)``: a third anywhere, the rest leaders with few weights moved.

    Args:
        rng: random numbers.
        leaders: shape ``(L, D)``, the best trials; brought into the cube.
        count: how many.
    """
    dimensions = leaders.shape[1]
    near = count - count // 3
    moved = rng.random((near, dimensions)) < np.exp(rng.uniform(-math.log(dimensions), 0.0, (near, 1)))
    moved[np.arange(near), rng.integers(0, dimensions, near)] = True
    size = np.exp(rng.uniform(math.log(0.02), math.log(0.5), (near, 1)))
    base = leaders[rng.integers(0, len(leaders), near)]
    points = base + moved * size * rng.standard_normal((near, dimensions))
    snapped = moved & (rng.random((near, dimensions)) < 0.15)
    points = np.where(snapped, rng.integers(0, 2, (near, dimensions)), points)
    return np.asarray(np.concatenate([rng.random((count - near, dimensions)), np.clip(points, 0.0, 1.0)]))


def climbed(council: Council, best: float, starts: Array, known: Array) -> Array:
    """The highest top that climbs from the starts reach in the cube, of those where no trial lies."""
    descent = _descent(council, best)
    bounds = [(0.0, 1.0)] * starts.shape[1]
    found, least = starts[0], math.inf
    for start in starts:
        top = minimize(descent, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
        point = np.clip(top.x, 0.0, 1.0)
        if top.fun < least and not is_known(point, known):
            found, least = point, float(top.fun)
    return np.asarray(found)


def _descent(council: Council, best: float) -> Callable[[Array], tuple[float, Array]]:
    """Minus the logarithm of the expected improvement, and its gradient."""

    def descent(point: Array) -> tuple[float, Array]:
        mean, deviation, uphill, outward = council.slope(point)
        z = (mean - best) / deviation
        height = float(log_improvement(np.array([z]))[0])
        share = math.exp(float(log_ndtr(z)) - height)
        gradient = outward / deviation + share * (uphill - z * outward) / deviation
        return -(height + math.log(deviation)), -gradient

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
    """The scores with mean 0 and variance 1, and what one unit of that was; 0 if they are all the same."""
    size = float(np.abs(scores).max()) or 1.0  # scores near 1e200 are numbers too
    scaled = scores / size
    unit = float(scaled.std())
    if unit <= 1e-12:
        return np.zeros(len(scores)), 0.0
    return (scaled - scaled.mean()) / unit, unit * size
