"""A Gaussian process over the weights of a merge: fitted at its posterior mode, with exact gradients.

The kernel is a sum of kernels (squared exponential or Matern-5/2): of the weights themselves, each with its own length
scale, and perhaps of a few *basis functions*, fixed linear combinations of the weights that share one. :class:`Prior`
says how long length scales usually are, and which weights' length scales are correlated.
Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5; length scales that grow with the root
of the dimensions: Hvarfner and others (2024), https://arxiv.org/abs/2402.02229.

Shapes: N observations, D weights, F basis functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import matern52, squared_distances
from bayes_merger.search.surrogates.process import JITTER, Process, log_likelihood, some_of

ROOT5 = math.sqrt(5.0)

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


class BlockGP(Process):
    """The process, conditioned on scores.

    Args:
        points: as of :class:`Process`.
        scores: as of :class:`Process`.
        settings: the hyperparameters.
        basis: the prior's.
    """

    def __init__(self, points: Array, scores: Array, settings: Settings, basis: Array | None) -> None:
        self.settings = settings
        self._maps = (None, basis)[: len(settings.scales)]
        self._features = [_mapped(points, m) * s for m, s in zip(self._maps, settings.scales, strict=True)]
        super().__init__(points, scores, settings.noise)

    def covariances(self, points: Array) -> tuple[Array, Array]:
        """See :class:`Process`."""
        k = np.zeros((len(points), len(self._features[0])))
        for index, feature in enumerate(self._features):
            own = _mapped(points, self._maps[index]) * self.settings.scales[index]
            k += _kernel(squared_distances(own, feature), self.settings.amplitudes[index], self.settings.smooth)[0]
        return k, np.full(len(points), sum(self.settings.amplitudes))

    def jacobians(self, point: Array) -> tuple[Array, Array, float, Array]:
        """See :class:`Process`.

        Of each kernel, with u = x / length scale (through the basis, if any): J_i = -steepness_i (u - u_i) du/dx.
        """
        k, jacobian = np.zeros(len(self._features[0])), np.zeros((len(self._features[0]), len(point)))
        for index, feature in enumerate(self._features):
            scale, basis = self.settings.scales[index], self._maps[index]
            difference = _mapped(point, basis) * scale - feature
            own, steepness = _kernel((difference**2).sum(axis=1), self.settings.amplitudes[index], self.settings.smooth)
            k += own
            inner = -steepness[:, None] * difference * scale
            jacobian += inner if basis is None else inner @ basis.T
        return k, jacobian, sum(self.settings.amplitudes), np.zeros(len(point))


def fit(points: Array, scores: Array, prior: Prior) -> Settings:
    """The hyperparameters of greatest posterior density.

    Args:
        points: shape ``(N, D)``, each weight's range of length 1.
        scores: shape ``(N,)``, mean 0 and variance 1.
        prior: of the hyperparameters.
    """
    mode = _Mode(*some_of(points, scores), prior)
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
        loss, pull = log_likelihood(covariance, self._scores)
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
        return loss + prior, gradient + prior_gradient

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
