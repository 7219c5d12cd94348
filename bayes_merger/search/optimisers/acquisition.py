"""Where to look next: acquisition functions of an ensemble, and the climb to the top of one.

Both use the deviation of the *score*, which is 0 where a trial has been: the same weights draw the same pictures, so a
known point has nothing to offer.

Expected improvement without underflow: Ament and others (2023), https://arxiv.org/abs/2310.20708; moving few
coordinates of the incumbent: Regis and Shoemaker (2013), https://doi.org/10.1080/0305215X.2012.687731
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.ensemble import Ensemble

LEADERS = 5
"""The best trials by posterior mean, around which most candidates lie."""


class Acquisition(Protocol):
    """What a trial at a point promises."""

    def heights(self, points: Array) -> Array:
        """The promise of several points, shape ``(M, D)`` to ``(M,)``."""

    def descent(self, point: Array) -> tuple[float, Array]:
        """Minus the promise of one point, and its gradient, shape ``(D,)``."""


class UpperBound:
    """The upper confidence bound ``mean + kappa sd`` of the score.

    Args:
        ensemble: that predicts it.
        kappa: how many standard deviations; 0 gives the posterior mean.
    """

    def __init__(self, ensemble: Ensemble, kappa: float) -> None:
        self._ensemble = ensemble
        self._kappa = kappa

    def heights(self, points: Array) -> Array:
        """See :class:`Acquisition`."""
        mean, deviation = self._ensemble.predict_score(points)
        return mean + self._kappa * deviation

    def descent(self, point: Array) -> tuple[float, Array]:
        """See :class:`Acquisition`."""
        mean, deviation, mean_gradient, sd_gradient = self._ensemble.gradient(point)
        return -(mean + self._kappa * deviation), -(mean_gradient + self._kappa * sd_gradient)


class Improvement:
    """The logarithm of the expected improvement of the score over the best posterior mean.

    With z = (mean - best) / sd and h(z) = pdf(z) + z cdf(z), whose derivative is cdf(z):

        log EI   = log h(z) + log sd
        d log EI = cdf(z) / h(z) dz + d sd / sd,   dz = (d mean - z d sd) / sd

    Args:
        ensemble: that predicts it.
        best: the best posterior mean of a trial, standardised.
    """

    def __init__(self, ensemble: Ensemble, best: float) -> None:
        self._ensemble = ensemble
        self._best = best

    def heights(self, points: Array) -> Array:
        """See :class:`Acquisition`."""
        mean, deviation = self._ensemble.predict_score(points)
        return log_improvement((mean - self._best) / deviation) + np.log(deviation)

    def descent(self, point: Array) -> tuple[float, Array]:
        """See :class:`Acquisition`."""
        mean, deviation, mean_gradient, sd_gradient = self._ensemble.gradient(point)
        z = (mean - self._best) / deviation
        log_ei = float(log_improvement(np.array([z]))[0])
        share = math.exp(float(log_ndtr(z)) - log_ei)
        gradient = sd_gradient / deviation + share * (mean_gradient - z * sd_gradient) / deviation
        return -(log_ei + math.log(deviation)), -gradient


def log_improvement(z: Array) -> Array:
    """``log(pdf(z) + z cdf(z))`` of the standard normal distribution, also where that underflows."""
    log_pdf = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    near = np.maximum(z, -1.0)
    usual = np.log(np.exp(-0.5 * near**2) / math.sqrt(2.0 * math.pi) + near * np.exp(log_ndtr(near)))
    far = np.minimum(z, -1.0)
    rest = far * erfcx(-far / math.sqrt(2.0)) * math.sqrt(math.pi / 2.0)  # -> -1 + 1 / z^2
    tail = np.where(far < -1e3, -2.0 * np.log(-far), np.log1p(np.maximum(rest, -1.0 + 1e-12)))
    return np.asarray(np.where(z > -1.0, usual, log_pdf + tail))


def top_of(
    acquisition: Acquisition, leaders: Array, rng: np.random.Generator, *, candidates: int, starts: int
) -> Array:
    """The point of the cube that promises most, shape ``(D,)``.

    Args:
        acquisition: the promise.
        leaders: the best trials, shape ``(L, D)``.
        rng: random numbers.
        candidates: points that are looked at.
        starts: how many of the best of them climb.
    """
    points = spread_around(rng, leaders, candidates)
    chosen = points[np.argsort(-acquisition.heights(points), kind="stable")[:starts]]
    cube = [(0.0, 1.0)] * points.shape[1]
    tops = [minimize(acquisition.descent, one, jac=True, bounds=cube, method="L-BFGS-B") for one in chosen]
    return np.asarray(np.clip(min(tops, key=lambda top: float(top.fun)).x, 0.0, 1.0))


def spread_around(rng: np.random.Generator, leaders: Array, count: int) -> Array:
    """Points of the cube, shape ``(count, D)``: a third anywhere, the rest good points with few weights moved.

    Some weights are put on exactly 0 or 1: in 26 dimensions a random point is never near an edge of the cube, where
    good weights often are.

    Args:
        rng: random numbers.
        leaders: shape ``(L, D)``, the good points.
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
