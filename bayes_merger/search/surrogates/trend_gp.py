"""A Gaussian process over the weights of a merge with one length scale for all, and perhaps a trend.

    k(x, x') = v0 matern52(|x - x'| / length) + v1 12/D (x - 1/2).(x' - 1/2) + v2 180/D q(x) q(x')
    q(x)     = |x - 1/2|^2 - D/12

The second part is a slope along every weight, the third a curvature that all have in common; over random points of the
unit cube each part has its v as its variance. From few scores a slope is learned sooner than a Matern process learns
where up is. The length scale grows with the root of the dimensions: Hvarfner and others (2024),
https://arxiv.org/abs/2402.02229.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import matern52, squared_distances
from bayes_merger.search.surrogates.process import JITTER, Process, log_likelihood, some_of

ROOT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters, for scores of mean 0 and variance 1.

    Attributes:
        length: the length scale, in ranges.
        variances: of the Matern part, and of slopes and curvature if there is a trend.
        noise: variance of a score's noise.
    """

    length: float
    variances: tuple[float, ...]
    noise: float


class TrendGP(Process):
    """The process, conditioned on scores.

    Args:
        points: as of :class:`Process`.
        scores: as of :class:`Process`.
        fitted: the hyperparameters.
    """

    def __init__(self, points: Array, scores: Array, fitted: Hyperparameters) -> None:
        self._length, (self._variance, *self._of_trend) = fitted.length, fitted.variances
        self._trend = _trend(points, self._of_trend)
        super().__init__(points, scores, fitted.noise)

    def covariances(self, points: Array) -> tuple[Array, Array]:
        """See :class:`Process`."""
        r = ROOT5 / self._length * np.sqrt(squared_distances(points, self.points))
        trend = _trend(points, self._of_trend)
        return matern52(r, self._variance)[0] + trend @ self._trend.T, self._variance + (trend**2).sum(axis=1)

    def jacobians(self, point: Array) -> tuple[Array, Array, float, Array]:
        """See :class:`Process`.

        Of the Matern part, dk_i/dx = -5 / (3 length^2) v0 (1 + r) exp(-r) (x - x_i).
        """
        difference = point - self.points
        r = ROOT5 / self._length * np.sqrt((difference**2).sum(axis=1))
        k, decay = matern52(r, self._variance)
        jacobian = (-5.0 / 3.0 / self._length**2 * (1.0 + r) * decay)[:, None] * difference
        if not self._of_trend:
            return k, jacobian, self._variance, np.zeros(len(point))
        here, slope = _trend(point[None], self._of_trend)[0], _trend_jacobian(point, self._of_trend)
        k, jacobian = k + self._trend @ here, jacobian + self._trend @ slope
        return k, jacobian, self._variance + float(here @ here), 2.0 * here @ slope


def fit(points: Array, scores: Array, *, trend: bool, noise: float | None) -> Hyperparameters:
    """The hyperparameters of the greatest posterior density, found by L-BFGS-B from the prior's mode.

    Args:
        points: shape ``(N, D)``, at least one.
        scores: shape ``(N,)``, mean 0 and variance 1.
        trend: whether there is one.
        noise: variance of a score's noise if it is known, to about a third; None: it is fitted.
    """
    mode = Mode(*some_of(points, scores), trend=trend, noise=noise)
    found = minimize(mode.descent, mode.start, jac=True, bounds=mode.bounds, method="L-BFGS-B")
    return mode.hyperparameters(found.x)


class Mode:
    """The posterior density of the hyperparameters, as logarithms in one vector: length, variances, noise.

    The prior is normal: of the length around 1.4 roots of the dimensions, of the variances around 1 and, for the
    trend's, 0.4; of the noise around what is known of it.
    """

    def __init__(self, points: Array, scores: Array, *, trend: bool, noise: float | None) -> None:
        self._squares = squared_distances(points, points)
        slopes, curvature = np.split(_trend(points, (1.0, 1.0)), [-1], axis=1)
        self._parts = [slopes @ slopes.T, curvature @ curvature.T] if trend else []
        self._scores = scores
        count = len(self._parts)
        usual = [0.37 + 0.5 * math.log(points.shape[1]), 0.0, *[-1.0] * count]
        self.start: Array = np.array([*usual, math.log(0.05 if noise is None else noise)])
        self._spread = np.array([1.0, 1.0, *[1.5] * count, 1.5 if noise is None else 0.3])
        self.bounds = [(-2.0, 7.0), (-7.0, 4.0), *[(-9.0, 4.0)] * count, (-10.0, 1.5)]

    def hyperparameters(self, vector: Array) -> Hyperparameters:
        """What a vector stands for."""
        length, *variances, noise = np.exp(vector).tolist()
        return Hyperparameters(length, tuple(variances), noise)

    def descent(self, vector: Array) -> tuple[float, Array]:
        """Minus the log posterior density, up to a constant, and its gradient, shape of the vector.

        Along a log variance, dK is that part of the kernel; along the log length, 5/3 s v0 (1 + r) exp(-r) with
        s = (|x - x'| / length)^2; along the log noise, noise times the identity.
        """
        fitted = self.hyperparameters(vector)
        s = self._squares / fitted.length**2
        r = ROOT5 * np.sqrt(s)
        matern, decay = matern52(r, fitted.variances[0])
        parts = [matern, *(v * part for v, part in zip(fitted.variances[1:], self._parts, strict=True))]
        loss, pull = log_likelihood(sum(parts) + (fitted.noise + JITTER) * np.eye(len(s)), self._scores)
        along = [(5.0 / 3.0) * s * (1.0 + r) * decay, *parts]
        gradient = np.array([*(np.vdot(pull, one) for one in along), fitted.noise * np.trace(pull)])
        away = (vector - self.start) / self._spread
        return loss + 0.5 * float(away @ away), -0.5 * gradient + away / self._spread


def _trend(points: Array, variances: Sequence[float]) -> Array:
    """Features whose products are the trend's covariances: shape ``(M, D)`` to ``(M, D + 1)``; ``(M, 0)`` without."""
    if not variances:
        return np.empty((len(points), 0))
    away = points - 0.5
    curved = (away**2).sum(axis=1, keepdims=True) - points.shape[1] / 12.0
    slopes, curvature = _scales(points.shape[1], variances)
    return np.hstack([slopes * away, curvature * curved])


def _trend_jacobian(point: Array, variances: Sequence[float]) -> Array:
    """Derivatives of a point's features along its weights, shape ``(D + 1, D)``."""
    slopes, curvature = _scales(len(point), variances)
    return np.vstack([slopes * np.eye(len(point)), 2.0 * curvature * (point - 0.5)])


def _scales(dimensions: int, variances: Sequence[float]) -> tuple[float, float]:
    slopes, curvature = variances
    return math.sqrt(12.0 / dimensions * slopes), math.sqrt(180.0 / dimensions * curvature)
