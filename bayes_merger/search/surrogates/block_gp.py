"""A Gaussian process over the weights of a merge: fitted at its posterior mode, with exact gradients.

The kernel is a sum of kernels (squared exponential or Matern-5/2): of the weights themselves, each with its own length
scale, and perhaps of a few *basis functions*, fixed linear combinations of the weights that share one. :class:`Prior`
says how long length scales usually are, and which weights' length scales are correlated.
Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5; length scales that grow with the root
of the dimensions: Hvarfner and others (2024), https://arxiv.org/abs/2402.02229.

With the scores y, their covariance K = sum of the kernels + noise, and the constant mean c:

    coefficients a = K^-1 (y - c)                        shape (N,)
    mean(x)        = c + k(x)^T a                        k(x): covariances of x with the observations, shape (N,)
    sd(x)^2        = amplitude - k(x)^T K^-1 k(x)

Shapes: N observations, D weights, F basis functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.optimize import minimize

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import centre_of, cholesky, matern52, squared_distances

ROOT5 = math.sqrt(5.0)
JITTER = 1e-8
LEAST_VARIANCE = 1e-10

FITTED = 200
"""At most this many observations are used to fit the length scales; all of them are used for the mean."""

STEPS = 60
"""Iterations to the mode: afterwards only the third digit changes."""


@dataclass(frozen=True)
class Prior:
    """The prior of the hyperparameters, for scores of mean 0 and variance 1.

    Attributes:
        spread: standard deviation of a weight's log length scale around the shared one; near 0: one length scale for
            all.
        correlation: correlation of those, shape ``(D, D)``.
        basis: linear combinations of the weights, shape ``(D, F)``, with their own kernel; None: no such kernel.
        noise: variance of a score's noise if it is known, to about a third; None: it is fitted.
        smooth: whether kernels are squared exponential; otherwise Matern-5/2.
    """

    spread: float
    correlation: Array
    basis: Array | None = None
    noise: float | None = None
    smooth: bool = False


@dataclass(frozen=True)
class Settings:
    """One set of hyperparameters.

    Attributes:
        scales: one over the length scale of each feature, per kernel: shapes ``(D,)`` and ``(F,)``.
        amplitudes: variance of each kernel.
        noise: variance of a score's noise.
        smooth: that of the prior.
    """

    scales: tuple[Array, ...]
    amplitudes: tuple[float, ...]
    noise: float
    smooth: bool = False


class BlockGP:
    """The posterior of the scores at any point.

    Args:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, mean about 0 and variance about 1.
        settings: the hyperparameters.
        basis: the prior's.
        exact: one per point, whether its score is a prediction without noise (of a trial that still runs).
    """

    def __init__(
        self,
        points: Array,
        scores: Array,
        settings: Settings,
        basis: Array | None,
        exact: NDArray[np.bool_] | None = None,
    ) -> None:
        self.settings = settings
        self._maps = (None, basis)[: len(settings.scales)]
        self._features = [_mapped(points, m) * s for m, s in zip(self._maps, settings.scales, strict=True)]
        self._amplitude = sum(settings.amplitudes)
        covariance = sum(
            _kernel(squared_distances(f, f), a, settings.smooth)[0]
            for f, a in zip(self._features, settings.amplitudes, strict=True)
        )
        noise = np.full(len(points), settings.noise) if exact is None else np.where(exact, 1e-4, settings.noise)
        self.inverse: Array = cho_solve((cholesky(covariance + np.diag(noise + JITTER)), True), np.eye(len(points)))
        self.centre = centre_of(self.inverse, scores)
        self.coefficients: Array = self.inverse @ (scores - self.centre)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation, without a score's noise: shape ``(M, D)`` to ``(M,)`` twice."""
        k = np.zeros((len(points), len(self.inverse)))
        for index, feature in enumerate(self._features):
            own = _mapped(points, self._maps[index]) * self.settings.scales[index]
            k += _kernel(squared_distances(own, feature), self.settings.amplitudes[index], self.settings.smooth)[0]
        variance = self._amplitude - np.einsum("ij,ij->i", k @ self.inverse, k)
        return self.centre + k @ self.coefficients, np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def gradient(self, point: Array) -> tuple[float, float, Array, Array]:
        """Posterior mean and standard deviation at one point, and their gradients, shape ``(D,)``.

        d mean = J^T a,   d sd = -J^T K^-1 k / sd,   with the Jacobian J = dk/dx, shape (N, D)

        Of each kernel, with u = x / length scale (through the basis, if any): J_i = -steepness_i (u - u_i) du/dx.
        """
        k = np.zeros(len(self.inverse))
        steep: list[tuple[Array, Array, Array | None]] = []
        for index, feature in enumerate(self._features):
            scale, basis = self.settings.scales[index], self._maps[index]
            difference = _mapped(point, basis) * scale - feature
            own, steepness = _kernel((difference**2).sum(axis=1), self.settings.amplitudes[index], self.settings.smooth)
            k += own
            steep.append((-steepness[:, None] * difference, scale, basis))
        explained = self.inverse @ k
        deviation = math.sqrt(max(self._amplitude - float(k @ explained), LEAST_VARIANCE))
        mean_gradient = np.zeros(len(point))
        sd_gradient = np.zeros(len(point))
        for jacobian, scale, basis in steep:
            gradients = np.stack([self.coefficients, -explained / deviation]) @ jacobian * scale
            up, out = gradients if basis is None else gradients @ basis.T
            mean_gradient += up
            sd_gradient += out
        return float(self.centre + k @ self.coefficients), deviation, mean_gradient, sd_gradient

    def loo_log_density(self) -> float:
        """Log predictive density of each score given all others, summed; higher is better.

        sum_i log N(y_i | mean_i, variance_i) with variance_i = 1 / (K^-1)_ii and y_i - mean_i = a_i / (K^-1)_ii:
        Rasmussen and Williams (2006), equations 5.10 to 5.12.
        """
        diagonal = np.diag(self.inverse)
        return float(0.5 * (np.log(diagonal) - self.coefficients**2 / diagonal - math.log(2.0 * math.pi)).sum())


def fit(points: Array, scores: Array, prior: Prior) -> Settings:
    """The hyperparameters of greatest posterior density.

    Args:
        points: shape ``(N, D)``, each weight's range of length 1.
        scores: shape ``(N,)``, mean 0 and variance 1.
        prior: of the hyperparameters.
    """
    step = -(-len(points) // FITTED)
    mode = _Mode(points[::step], scores[::step], prior)
    optimum = minimize(
        mode.descent, mode.start, jac=True, method="L-BFGS-B", bounds=mode.bounds, options={"maxiter": STEPS}
    )
    return mode.settings(optimum.x)


class _Mode:
    """The posterior density of the hyperparameters, as a function of one vector.

    Its layout: shared log length scale, each weight's deviation from it (D), the basis' log length scale (if any),
    the kernels' log variances, log noise.
    """

    def __init__(self, points: Array, scores: Array, prior: Prior) -> None:
        dimensions = points.shape[1]
        self._scores = scores
        self._count = dimensions
        self._basis = prior.basis is not None
        self._smooth = prior.smooth
        self._features = [points] if prior.basis is None else [points, points @ prior.basis]
        self._precision = np.linalg.inv(prior.correlation * prior.spread**2 + 1e-9 * np.eye(dimensions))
        basis = 0 if prior.basis is None else prior.basis.shape[1]
        shared = [0.37 + 0.5 * math.log(dimensions)]  # 1.4 roots of the dimensions
        own = [1.0 + 0.5 * math.log(basis)] if basis else []
        variances = [0.0, -1.5] if basis else [0.0]
        noise, self._noise_spread = (math.log(0.05), 1.5) if prior.noise is None else (math.log(prior.noise), 0.3)
        self.start: Array = np.array([*shared, *np.zeros(dimensions), *own, *variances, noise])
        wide = [(-5.0, 5.0)] * dimensions
        self.bounds = [(-2.0, 7.0), *wide, *[(-3.0, 6.0)] * len(own), *[(-7.0, 4.0)] * len(variances), (-10.0, 1.5)]

    def settings(self, vector: Array) -> Settings:
        """The hyperparameters a vector stands for."""
        after = 1 + self._count
        scales = [np.exp(-(vector[0] + vector[1:after]))]
        if self._basis:
            scales.append(np.full(self._features[1].shape[1], math.exp(-vector[after])))
        variances = vector[after + len(scales) - 1 : -1]
        return Settings(tuple(scales), tuple(np.exp(variances).tolist()), math.exp(vector[-1]), self._smooth)

    def descent(self, vector: Array) -> tuple[float, Array]:
        """Minus the log posterior density, up to a constant, and its gradient, shape of the vector.

            -log p(y | theta) = 1/2 (y - c)^T K^-1 (y - c) + 1/2 log det K + c^2 / 2
            d/d theta         = -1/2 tr((a a^T - K^-1) dK/d theta)        a: the coefficients

        Along the log length scale of feature f, dK_ij = steepness_ij (f_i - f_j)^2; along a log variance, the kernel;
        along the log noise, noise times the identity. The prior adds :meth:`_prior`.
        """
        settings = self.settings(vector)
        scaled = [f * s for f, s in zip(self._features, settings.scales, strict=True)]
        parts = [
            _kernel(squared_distances(f, f), a, settings.smooth)
            for f, a in zip(scaled, settings.amplitudes, strict=True)
        ]
        covariance = sum(k for k, _ in parts) + (settings.noise + JITTER) * np.eye(len(self._scores))
        triangle = cholesky(covariance)
        inverse: Array = cho_solve((triangle, True), np.eye(len(self._scores)))
        centre = centre_of(inverse, self._scores)
        rest = self._scores - centre
        coefficients = inverse @ rest
        loss = 0.5 * rest @ coefficients + np.log(np.diag(triangle)).sum() + 0.5 * centre**2
        pull = np.outer(coefficients, coefficients) - inverse
        own = [-0.5 * _scale_pull(pull * steep, f) for (_, steep), f in zip(parts, scaled, strict=True)]
        gradient = np.array(
            [
                own[0].sum(),
                *own[0],
                *(lengths.sum() for lengths in own[1:]),
                *(-0.5 * (pull * k).sum() for k, _ in parts),
                -0.5 * settings.noise * np.trace(pull),
            ]
        )
        prior, prior_gradient = self._prior(vector)
        return float(loss) + prior, gradient + prior_gradient

    def _prior(self, vector: Array) -> tuple[float, Array]:
        """Minus the log prior density, up to a constant, and its gradient: 1/2 d^T P d and P d, d = vector - mode."""
        difference = vector - self.start
        gradient = difference.copy()
        gradient[1 : 1 + self._count] = self._precision @ difference[1 : 1 + self._count]
        gradient[-1] /= self._noise_spread**2
        return 0.5 * float(difference @ gradient), gradient


def _mapped(points: Array, basis: Array | None) -> Array:
    return points if basis is None else points @ basis


def _kernel(squares: Array, amplitude: float, smooth: bool) -> tuple[Array, Array]:
    """Covariances at these squared distances s, and their steepness -2 dk/ds; all of the shape of ``squares``.

    Squared exponential: k = A exp(-s / 2), steepness = k.
    Matern-5/2, r = sqrt(5 s): k = A (1 + r + r^2 / 3) exp(-r), steepness = A 5/3 (1 + r) exp(-r).
    """
    if smooth:
        kernel: Array = amplitude * np.exp(-0.5 * squares)
        return kernel, kernel
    r = ROOT5 * np.sqrt(squares)
    kernel, decay = matern52(r, amplitude)
    return kernel, (5.0 / 3.0) * (1.0 + r) * decay


def _scale_pull(weights: Array, features: Array) -> Array:
    """``sum_ij weights_ij (features_i - features_j)^2`` per feature, shape ``(F,)``; the weights are symmetric."""
    pull: Array = 2.0 * ((features**2).T @ weights.sum(axis=1) - (features * (weights @ features)).sum(axis=0))
    return pull
