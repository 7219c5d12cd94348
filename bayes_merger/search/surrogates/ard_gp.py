"""A Gaussian process with a length scale per dimension, fitted in a few hundredths of a second.

A kernel of variance 1 (Matern-5/2 or squared exponential) over standardised scores, a constant mean, and noise. Length
scales and noise have the greatest posterior density under the priors of Hvarfner and others (2024),
https://arxiv.org/abs/2402.02229: a length scale grows with the root of the dimensions; otherwise no two points would be
correlated in 26 of them. The mean is the maximum-likelihood one, as in BoTorch.
Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import matern52, squared_distances

LENGTHS = (0.025, 100.0)
NOISES = (1e-4, 1.0)
JITTER = 1e-8


def _matern(squares: Array) -> tuple[Array, Array]:
    r = math.sqrt(5.0) * np.sqrt(squares)
    kernel, decay = matern52(r)
    return kernel, 5.0 / 3.0 * (1.0 + r) * decay


def _squared_exponential(squares: Array) -> tuple[Array, Array]:
    kernel = np.exp(-0.5 * squares)
    return kernel, kernel.copy()


KERNELS: dict[str, Callable[[Array], tuple[Array, Array]]] = {"matern": _matern, "rbf": _squared_exponential}
"""From squared distances (in length scales) to the kernel, and to its steepness -2 dk/ds: the derivative along the
logarithm of a length scale is that times the squared distance along its dimension."""


@dataclass(frozen=True)
class ArdGP:
    """A Gaussian process conditioned on points and scores.

    Attributes:
        points: shape ``(points, dimensions)``.
        scores: one per point, standardised.
        lengths: length scale of each dimension, shape ``(dimensions,)``.
        noise: variance of a score's noise.
        mean: the constant prior mean.
        kernel: one of ``KERNELS``.
    """

    points: Array
    scores: Array
    lengths: Array
    noise: float
    mean: float = 0.0
    kernel: str = "matern"

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean, shape ``(n,)``, and covariance, shape ``(n, n)``, of the noiseless scores at ``x``, shape ``(n, D)``.

        mean + k(X, x)^T K^-1 (y - mean)   and   k(x, x) - k(X, x)^T K^-1 k(X, x),   K = k(X, X) + noise
        """
        root = cholesky(self._covariance(self.points, self.points) + self._nugget(), lower=True)
        cross = self._covariance(self.points, x)
        mean: Array = self.mean + cross.T @ cho_solve((root, True), self.scores - self.mean)
        explained: Array = cross.T @ cho_solve((root, True), cross)
        return mean, self._covariance(x, x) - explained

    def condition_on(self, points: Array) -> ArdGP:
        """The process conditioned on its own predictions at these points, shape ``(n, D)``."""
        if not len(points):
            return self
        expected = self.posterior(points)[0]
        scores = np.concatenate([self.scores, expected])
        return replace(self, points=np.vstack([self.points, points]), scores=scores)

    def _covariance(self, x: Array, y: Array) -> Array:
        return KERNELS[self.kernel](squared_distances(x / self.lengths, y / self.lengths))[0]

    def _nugget(self) -> Array:
        nugget: Array = (self.noise + JITTER) * np.eye(len(self.points))
        return nugget


def fit(points: Array, scores: Array, kernel: str = "matern") -> ArdGP:
    """The process of the greatest posterior density, found by L-BFGS-B from the prior's mode.

    Args:
        points: shape ``(points, dimensions)``, at least one, each dimension's range of length 1.
        scores: one per point, mean 0 and variance 1.
        kernel: one of ``KERNELS``.
    """
    dimensions = points.shape[1]
    usual = math.sqrt(2.0) + 0.5 * math.log(dimensions)
    centre = np.append(np.full(dimensions, usual), -4.0)  # of the priors, in logarithms; noise of about 0.02
    spread = np.append(np.full(dimensions, math.sqrt(3.0)), 1.0)
    start = centre - spread**2
    bounds = [(math.log(LENGTHS[0]), math.log(LENGTHS[1]))] * dimensions + [(math.log(NOISES[0]), math.log(NOISES[1]))]

    def loss(logs: Array) -> tuple[float, Array]:
        likelihood, gradient, _ = _density(points, scores, logs, kernel)
        offset = (logs - centre) / spread
        # The density of a length scale, not of its logarithm: hence the sum of the logarithms.
        return 0.5 * float(offset @ offset) + float(logs.sum()) - likelihood, offset / spread + 1.0 - gradient

    optimum = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 100})
    mean = _density(points, scores, optimum.x, kernel)[2]
    return ArdGP(points, scores, np.exp(optimum.x[:-1]), float(np.exp(optimum.x[-1])), mean, kernel)


def _density(points: Array, scores: Array, logs: Array, kernel: str) -> tuple[float, Array, float]:
    """Log marginal likelihood, its gradient along log length scales and log noise, shape ``(D + 1,)``, and the mean.

        mean     = 1^T K^-1 y / 1^T K^-1 1                 maximum likelihood
        log_lik  = -1/2 (y - mean)^T K^-1 (y - mean) - 1/2 log det K
        gradient = 1/2 tr((a a^T - K^-1) dK/d theta),      a = K^-1 (y - mean)

    Along the log length scale of dimension d, dK_ij = steepness_ij (x_id - x_jd)^2 / length_d^2.
    """
    lengths, noise = np.exp(logs[:-1]), float(np.exp(logs[-1]))
    scaled = points / lengths
    covariance, steepness = KERNELS[kernel](squared_distances(scaled, scaled))
    root = cholesky(covariance + (noise + JITTER) * np.eye(len(points)), lower=True)
    inverse = cho_solve((root, True), np.eye(len(points)))
    total = inverse.sum(axis=1)
    mean = float(total @ scores / total.sum())
    weights = inverse @ (scores - mean)
    likelihood = -0.5 * float((scores - mean) @ weights) - float(np.log(np.diag(root)).sum())
    pull = np.outer(weights, weights) - inverse
    steepness *= pull
    along = steepness.sum(axis=1) @ scaled**2 - (scaled * (steepness @ scaled)).sum(axis=0)
    return likelihood, np.append(along, 0.5 * noise * float(np.trace(pull))), mean
