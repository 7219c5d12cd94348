"""A Gaussian process over the weights of a merge with one length scale, and perhaps a trend: fitted at its posterior
mode, with exact gradients.

    k(x, x') = v0 matern52(|x - x'| / length) + v1 12/D (x - 1/2).(x' - 1/2) + v2 180/D q(x) q(x')
    q(x)     = |x - 1/2|^2 - D/12

The second part is a slope along every weight, the third a curvature that all have in common; over random points of the
unit cube each part has its v as its variance. From few scores a slope is learned sooner than a Matern process learns
where up is. The length scale grows with the root of the dimensions: Hvarfner and others (2024),
https://arxiv.org/abs/2402.02229. Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5.

A score is the merge's worth and noise, y = f + e. A study's prompts and seeds are fixed, so e is a function of the
weights too: unrelated between trials, but the same if the same weights are drawn again:

    cov(e(x), e(x')) = noise exp(-|x - x'|^2 / (2 REACH^2))

Between trials that is practically white noise and treated as such. At a point it makes the deviation of the next score
0 where a trial has been: drawing it again would teach nothing.

With the scores y, their covariance K = k + noise, and the constant mean c:

    a       = K^-1 (y - c)                               shape (N,)
    mean(x) = c + k(x)^T a                               k(x): covariances of f(x) with the scores, shape (N,)

Shapes: N observations, D weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve
from scipy.optimize import minimize

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import centre_of, cholesky, matern52, squared_distances

ROOT5 = math.sqrt(5.0)
JITTER = 1e-8
LEAST_VARIANCE = 1e-10

REACH = 0.1
"""The distance over which the noise of a score changes, in ranges."""

FITTED = 200
"""At most this many observations are used to fit the hyperparameters; all of them are used for the mean."""


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


class TrendGP:
    """The posterior of worth and score at any point.

    Args:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, mean about 0 and variance about 1; NaN where a trial has none yet: its place counts as
            explored, and its score as what the process predicts for it.
        fitted: the hyperparameters.
    """

    def __init__(self, points: Array, scores: Array, fitted: Hyperparameters) -> None:
        self._points = points
        self._fitted = fitted
        self._trend = _trend(points, fitted.variances[1:])
        kernel = _covariance(squared_distances(points, points), self._trend, self._trend, fitted)
        kernel[np.diag_indices_from(kernel)] += fitted.noise + JITTER
        self.inverse: Array = cho_solve((cholesky(kernel), True), np.eye(len(points)))
        told = np.isfinite(scores)
        own = self.inverse if told.all() else np.linalg.inv(kernel[np.ix_(told, told)])
        self.centre = centre_of(own, scores[told])
        self.coefficients = np.zeros(len(points))
        self.coefficients[told] = own @ (scores[told] - self.centre)
        # Equations 5.10 to 5.12: each score given all others, mean y_i - a_i / (K^-1)_ii, variance 1 / (K^-1)_ii.
        precision = np.diag(own)
        errors = self.coefficients[told] ** 2 / precision
        self.loo_log_density = float(0.5 * (np.log(precision) - errors - math.log(2.0 * math.pi)).sum())
        """Log predictive density of each score given all others, summed; higher is better."""

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the worth: shape ``(M, D)`` to ``(M,)`` twice."""
        k, _, prior = self._cross(points)
        variance = prior - np.einsum("ij,ij->i", k @ self.inverse, k)
        return self.centre + k @ self.coefficients, np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def predict_score(self, points: Array) -> tuple[Array, Array]:
        """As :meth:`predict`, with the standard deviation of the score: 0 where a trial has been."""
        k, e, prior = self._cross(points)
        variance = prior + self._fitted.noise - np.einsum("ij,ij->i", (k + e) @ self.inverse, k + e)
        return self.centre + k @ self.coefficients, np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def gradient(self, point: Array) -> tuple[float, float, Array, Array]:
        """Mean and standard deviation of the score at one point, and their gradients, shape ``(D,)``.

        d mean = J^T a   and   d sd = (dv / 2 - (J + E)^T K^-1 (k + e)) / sd

        with v = k(x, x), the Jacobians J = dk/dx and E = de/dx of shape (N, D), and of the Matern part
        J_i = -5 / (3 length^2) v0 (1 + r) exp(-r) (x - x_i).
        """
        fitted, (v0, *of_trend) = self._fitted, self._fitted.variances
        difference = point - self._points
        squares = (difference**2).sum(axis=1)
        r = ROOT5 / fitted.length * np.sqrt(squares)
        k, decay = matern52(r, v0)
        jacobian = (-(5.0 / 3.0) / fitted.length**2 * (1.0 + r) * decay)[:, None] * difference
        prior, prior_gradient = v0, np.zeros(len(point))
        if of_trend:
            here, slope = _trend(point[None], of_trend)[0], _trend_jacobian(point, of_trend)
            k, jacobian = k + self._trend @ here, jacobian + self._trend @ slope
            prior, prior_gradient = v0 + float(here @ here), 2.0 * here @ slope
        e = fitted.noise * np.exp(-0.5 * squares / REACH**2)
        explained = self.inverse @ (k + e)
        variance = prior + fitted.noise - float((k + e) @ explained)
        deviation = math.sqrt(max(variance, LEAST_VARIANCE))
        seen = jacobian - (e / REACH**2)[:, None] * difference
        sd_gradient = (0.5 * prior_gradient - seen.T @ explained) / deviation
        return float(self.centre + k @ self.coefficients), deviation, jacobian.T @ self.coefficients, sd_gradient

    def _cross(self, points: Array) -> tuple[Array, Array, Array]:
        """Covariances of worth and noise with the scores, both ``(M, N)``; the worth's prior variance, ``(M,)``."""
        f = self._fitted
        squares = squared_distances(points, self._points)
        trend = _trend(points, f.variances[1:])
        k = _covariance(squares, trend, self._trend, f)
        return k, f.noise * np.exp(-0.5 * squares / REACH**2), f.variances[0] + (trend**2).sum(axis=1)


def fit(points: Array, scores: Array, *, trend: bool, noise: float | None) -> Hyperparameters:
    """The hyperparameters of the greatest posterior density, found by L-BFGS-B from the prior's mode.

    Args:
        points: shape ``(N, D)``, at least one.
        scores: shape ``(N,)``, mean 0 and variance 1.
        trend: whether there is one.
        noise: variance of a score's noise if it is known, to about a third; None: it is fitted.
    """
    step = -(-len(points) // FITTED)
    mode = Mode(points[::step], scores[::step], trend=trend, noise=noise)
    found = minimize(mode.descent, mode.start, jac=True, bounds=mode.bounds, method="L-BFGS-B")
    return mode.hyperparameters(found.x)


class Mode:
    """The posterior density of the hyperparameters, as logarithms in one vector: length, variances, noise.

    The prior is normal: of the length around 1.4 roots of the dimensions, of the variances around 1 and, for the
    trend's, 0.4; of the noise around what is known of it.
    """

    def __init__(self, points: Array, scores: Array, *, trend: bool, noise: float | None) -> None:
        dimensions = points.shape[1]
        self._squares = squared_distances(points, points)
        features = _trend(points, (1.0, 1.0)) if trend else np.empty((len(points), 0))
        self._parts = (
            [features[:, :-1] @ features[:, :-1].T, np.outer(features[:, -1], features[:, -1])] if trend else []
        )
        self._scores = scores
        of_trend = len(self._parts)
        usual = [0.37 + 0.5 * math.log(dimensions), 0.0, *[-1.0] * of_trend]
        self.start: Array = np.array([*usual, math.log(0.05 if noise is None else noise)])
        self._spread = np.array([1.0, 1.0, *[1.5] * of_trend, 1.5 if noise is None else 0.3])
        self.bounds = [(-2.0, 7.0), (-7.0, 4.0), *[(-9.0, 4.0)] * of_trend, (-10.0, 1.5)]

    def hyperparameters(self, vector: Array) -> Hyperparameters:
        """What a vector stands for."""
        length, *variances, noise = np.exp(vector).tolist()
        return Hyperparameters(length, tuple(variances), noise)

    def descent(self, vector: Array) -> tuple[float, Array]:
        """Minus the log posterior density, up to a constant, and its gradient, shape of the vector.

            -log p(y | theta) = 1/2 (y - c)^T K^-1 (y - c) + 1/2 log det K + c^2 / 2
            d/d theta         = -1/2 tr((a a^T - K^-1) dK/d theta)

        Along a log variance, dK is that part of the kernel; along the log length, r dk/dr = 5 s / 3 v (1 + r) exp(-r)
        with s = (|x - x'| / length)^2; along the log noise, noise times the identity.
        """
        fitted = self.hyperparameters(vector)
        s = self._squares / fitted.length**2
        r = ROOT5 * np.sqrt(s)
        matern, decay = matern52(r, fitted.variances[0])
        parts = [matern, *(v * part for v, part in zip(fitted.variances[1:], self._parts, strict=True))]
        covariance = sum(parts) + (fitted.noise + JITTER) * np.eye(len(s))
        triangle = cholesky(covariance)
        inverse: Array = cho_solve((triangle, True), np.eye(len(s)))
        centre = centre_of(inverse, self._scores)
        rest = self._scores - centre
        a = inverse @ rest
        loss = 0.5 * float(rest @ a) + float(np.log(np.diag(triangle)).sum()) + 0.5 * centre**2
        pull = np.outer(a, a) - inverse
        along = [(5.0 / 3.0) * s * (1.0 + r) * decay, *parts]
        gradient = np.array([*(-0.5 * np.vdot(pull, d) for d in along), -0.5 * fitted.noise * np.trace(pull)])
        away = (vector - self.start) / self._spread
        return loss + 0.5 * float(away @ away), gradient + away / self._spread


def _covariance(squares: Array, trend: Array, of_scores: Array, fitted: Hyperparameters) -> Array:
    """Covariances of worths at these squared distances, whose trends have these features."""
    matern, _ = matern52(ROOT5 / fitted.length * np.sqrt(squares), fitted.variances[0])
    return matern + trend @ of_scores.T if trend.shape[1] else matern


def _trend(points: Array, variances: Sequence[float]) -> Array:
    """Features whose products are the trend's covariances: shape ``(M, D)`` to ``(M, D + 1)``; ``(M, 0)`` without."""
    if not variances:
        return np.empty((len(points), 0))
    dimensions = points.shape[1]
    away = points - 0.5
    curved = (away**2).sum(axis=1, keepdims=True) - dimensions / 12.0
    slopes, curvature = (math.sqrt(v * c / dimensions) for v, c in zip(variances, (12.0, 180.0), strict=True))
    return np.hstack([slopes * away, curvature * curved])


def _trend_jacobian(point: Array, variances: Sequence[float]) -> Array:
    """Derivatives of a point's features along its weights, shape ``(D + 1, D)``."""
    dimensions = len(point)
    slopes, curvature = (math.sqrt(v * c / dimensions) for v, c in zip(variances, (12.0, 180.0), strict=True))
    return np.vstack([slopes * np.eye(dimensions), 2.0 * curvature * (point - 0.5)])
