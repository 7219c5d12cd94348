"""What the Gaussian processes of the search share: from a kernel to the posterior, whatever the kernel is.

A score is the merge's worth and noise, y = f + e. A study's prompts and seeds are fixed, so e is a function of the
weights too: unrelated between trials, but the same if the same weights are drawn again:

    cov(e(x), e(x')) = noise exp(-|x - x'|^2 / (2 REACH^2))

Between trials that is practically white noise and treated as such. It makes the deviation of the next score 0 where a
trial has been: drawing it again would teach nothing.

With the scores y, their covariance K = k + noise, and the constant mean c:

    a       = K^-1 (y - c)                               shape (N,)
    mean(x) = c + k(x)^T a                               k(x): covariances of f(x) with the scores, shape (N,)
    var f   = k(x, x) - k(x)^T K^-1 k(x)
    var y   = k(x, x) + noise - (k + e)(x)^T K^-1 (k + e)(x)

Shapes: N observations, D weights. Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from scipy.linalg.lapack import dpotri

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import squared_distances

JITTER = 1e-8
LEAST_VARIANCE = 1e-10

REACH = 0.1
"""The distance over which the noise of a score changes, in ranges."""

FITTED = 120
"""At most this many observations are used to fit hyperparameters; all of them are used for the mean."""


class Process(ABC):
    """The posterior of worth and score at any point.

    Args:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, mean about 0 and variance about 1; NaN where a trial has none yet: its place counts as
            explored, and its score as what the process predicts for it.
        noise: variance of a score's noise.
    """

    def __init__(self, points: Array, scores: Array, noise: float) -> None:
        self.points = points
        self._noise = noise
        covariance = self.covariances(points)[0] + (noise + JITTER) * np.eye(len(points))
        told = np.isfinite(scores)
        self.inverse = _inverse(covariance)[0]
        own = self.inverse if told.all() else _inverse(covariance[np.ix_(told, told)])[0]
        self.centre = _centre(own, scores[told])
        self.coefficients: Array = np.zeros(len(points))
        self.coefficients[told] = own @ (scores[told] - self.centre)
        # Each score given all others has the mean y_i - a_i / (K^-1)_ii and the variance 1 / (K^-1)_ii: equation 5.12.
        precision = np.diag(own)
        surprise = self.coefficients[told] ** 2 / precision
        self.loo_log_density = float(0.5 * (np.log(precision) - surprise - math.log(2.0 * math.pi)).sum())
        """Log predictive density of each score given all others, summed; higher is better."""

    @abstractmethod
    def covariances(self, points: Array) -> tuple[Array, Array]:
        """Covariances of the worth at these points with that of the observations, shape ``(M, N)``, and its prior
        variance, ``(M,)``."""

    @abstractmethod
    def jacobians(self, point: Array) -> tuple[Array, Array, float, Array]:
        """The same at one point, and their derivatives: shapes ``(N,)``, ``(N, D)``, ``()`` and ``(D,)``."""

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the worth: shape ``(M, D)`` to ``(M,)`` twice."""
        k, prior = self.covariances(points)
        variance = prior - np.einsum("ij,ij->i", k @ self.inverse, k)
        return self.centre + k @ self.coefficients, np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def predict_score(self, points: Array) -> tuple[Array, Array]:
        """As :meth:`predict`, with the standard deviation of the score, which is 0 where a trial has been."""
        k, prior = self.covariances(points)
        seen = k + self._noise * np.exp(-0.5 * squared_distances(points, self.points) / REACH**2)
        variance = prior + self._noise - np.einsum("ij,ij->i", seen @ self.inverse, seen)
        return self.centre + k @ self.coefficients, np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def gradient(self, point: Array) -> tuple[float, float, Array, Array]:
        """Mean and standard deviation of the score at one point, and their gradients, shape ``(D,)``.

        d mean = J^T a   and   d sd = (d k(x, x) / 2 - (J + E)^T K^-1 (k + e)) / sd   with J = dk/dx and E = de/dx
        """
        k, jacobian, prior, prior_gradient = self.jacobians(point)
        difference = point - self.points
        e = self._noise * np.exp(-0.5 * (difference**2).sum(axis=1) / REACH**2)
        explained = self.inverse @ (k + e)
        variance = prior + self._noise - float((k + e) @ explained)
        deviation = math.sqrt(max(variance, LEAST_VARIANCE))
        pull = jacobian.T @ explained - difference.T @ (e * explained) / REACH**2
        mean = float(self.centre + k @ self.coefficients)
        return mean, deviation, jacobian.T @ self.coefficients, (0.5 * prior_gradient - pull) / deviation


def some_of(points: Array, scores: Array) -> tuple[Array, Array]:
    """At most ``FITTED`` observations, evenly spread over their order."""
    chosen = np.linspace(0, len(points) - 1, min(len(points), FITTED)).astype(int)
    return points[chosen], scores[chosen]


def log_likelihood(covariance: Array, scores: Array) -> tuple[float, Array]:
    """Minus the log density of the scores, up to a constant, and the matrix P that gives its derivatives.

        -log p(y) = 1/2 (y - c)^T K^-1 (y - c) + 1/2 log det K + c^2 / 2
        d/dtheta  = -1/2 sum_ij P_ij dK_ij/dtheta,   P = a a^T - K^-1

    Args:
        covariance: K, shape ``(N, N)``, noise included.
        scores: shape ``(N,)``.
    """
    inverse, half_log_determinant = _inverse(covariance)
    centre = _centre(inverse, scores)
    a = inverse @ (scores - centre)
    loss = 0.5 * float((scores - centre) @ a) + half_log_determinant + 0.5 * centre**2
    return loss, np.outer(a, a) - inverse


def _inverse(covariance: Array) -> tuple[Array, float]:
    """The inverse, and half the log determinant; with more jitter if rounding has made the matrix indefinite."""
    jitter, unit = 0.0, np.eye(len(covariance))
    while True:
        try:
            triangle = np.linalg.cholesky(covariance + jitter * unit)
            lower: Array = dpotri(triangle, lower=True)[0]  # a third of the work of solving for the unit matrix
            inverse = lower + lower.T  # above the diagonal, lower is 0
            np.fill_diagonal(inverse, np.diag(lower))
            return inverse, float(np.log(np.diag(triangle)).sum())
        except np.linalg.LinAlgError:
            jitter = max(10.0 * jitter, 1e-8)


def _centre(inverse: Array, scores: Array) -> float:
    """The posterior mean of the scores' constant mean, whose prior is a standard normal distribution."""
    return float(inverse.sum(axis=0) @ scores / (inverse.sum() + 1.0))
