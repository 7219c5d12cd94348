"""A Gaussian process over the weights of a merge: fitted by its posterior's mode, with exact gradients.

The kernel is a sum of kernels (squared exponential or Matern-5/2): of the weights themselves, each with its own length
scale, and perhaps of a few *waves*, fixed linear combinations of the weights that share one. What is known before the
first score comes in as :class:`Prior`: how long length scales usually are, and which weights' length scales are alike.
Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5; length scales that grow with the root
of the dimensions: Hvarfner and others (2024), https://arxiv.org/abs/2402.02229.

Shapes: N observations, D weights, F waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.optimize import minimize

from bayes_merger.search.space.cube import Array

ROOT5 = math.sqrt(5.0)
JITTER = 1e-8
LEAST_VARIANCE = 1e-10

FITTED = 200
"""At most so many observations decide on the length scales; all of them give the mean."""

STEPS = 60
"""Of the climb to the mode: by then it moves in the third digit only."""


@dataclass(frozen=True)
class Prior:
    """What is believed before the first score; scores have mean 0 and variance 1.

    Attributes:
        spread: standard deviation of a weight's log length scale around the one that all share; nearly 0: one for all.
        likeness: correlation of those, shape ``(D, D)``.
        waves: linear combinations of the weights, shape ``(D, F)``, that act besides; None: none do.
        noise: variance of a score's luck where it is known, which is trusted within a third; None: it is fitted.
        smooth: scores change as smoothly as a Gaussian bell (squared exponential kernels); false: as Matern-5/2.
    """

    spread: float
    likeness: Array
    waves: Array | None = None
    noise: float | None = None
    smooth: bool = False


@dataclass(frozen=True)
class Settings:
    """One set of hyperparameters: where the climb is.

    Attributes:
        scales: one over the length scale of each feature, per kernel: shapes ``(D,)`` and ``(F,)``.
        amplitudes: variance of each kernel.
        noise: variance of a score's luck.
        smooth: that of the prior.
    """

    scales: tuple[Array, ...]
    amplitudes: tuple[float, ...]
    noise: float
    smooth: bool = False


class Process:
    """What all scores together say of any point.

    Args:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, mean about 0 and variance about 1.
        settings: the hyperparameters.
        waves: those of the prior.
        exact: one per point: its score is a guess of ours and has no luck in it (a trial that still runs).
    """

    def __init__(
        self,
        points: Array,
        scores: Array,
        settings: Settings,
        waves: Array | None,
        exact: NDArray[np.bool_] | None = None,
    ) -> None:
        self.settings = settings
        self._maps = (None, waves)[: len(settings.scales)]
        self._features = [_mapped(points, m) * s for m, s in zip(self._maps, settings.scales, strict=True)]
        self._amplitude = sum(settings.amplitudes)
        covariance = sum(
            _kernel(_squares(f, f), a, settings.smooth)[0]
            for f, a in zip(self._features, settings.amplitudes, strict=True)
        )
        noise = np.full(len(points), settings.noise) if exact is None else np.where(exact, 1e-4, settings.noise)
        self.inverse: Array = cho_solve((_cholesky(covariance + np.diag(noise + JITTER)), True), np.eye(len(points)))
        self.centre = _centre(self.inverse, scores)
        self.coefficients: Array = self.inverse @ (scores - self.centre)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation, without a score's luck: shape ``(M, D)`` to ``(M,)`` twice."""
        k = np.zeros((len(points), len(self.inverse)))
        for index, feature in enumerate(self._features):
            own = _mapped(points, self._maps[index]) * self.settings.scales[index]
            k += _kernel(_squares(own, feature), self.settings.amplitudes[index], self.settings.smooth)[0]
        variance = self._amplitude - np.einsum("ij,ij->i", k @ self.inverse, k)
        return self.centre + k @ self.coefficients, np.sqrt(np.maximum(variance, LEAST_VARIANCE))

    def slope(self, point: Array) -> tuple[float, float, Array, Array]:
        """Posterior mean and standard deviation at one point, and their gradients, shape ``(D,)``."""
        k = np.zeros(len(self.inverse))
        steep: list[tuple[Array, Array, Array | None]] = []
        for index, feature in enumerate(self._features):
            scale, waves = self.settings.scales[index], self._maps[index]
            away = _mapped(point, waves) * scale - feature
            own, steepness = _kernel((away**2).sum(axis=1), self.settings.amplitudes[index], self.settings.smooth)
            k += own
            steep.append((-steepness[:, None] * away, scale, waves))
        explained = self.inverse @ k
        deviation = math.sqrt(max(self._amplitude - float(k @ explained), LEAST_VARIANCE))
        uphill = np.zeros(len(point))
        outward = np.zeros(len(point))
        for jacobian, scale, waves in steep:
            both = np.stack([self.coefficients, -explained / deviation]) @ jacobian * scale
            up, out = both if waves is None else both @ waves.T
            uphill += up
            outward += out
        return float(self.centre + k @ self.coefficients), deviation, uphill, outward

    def foresight(self) -> float:
        """How well each score is foretold by the others: log density, summed. Higher is better."""
        diagonal = np.diag(self.inverse)
        return float(0.5 * (np.log(diagonal) - self.coefficients**2 / diagonal - math.log(2.0 * math.pi)).sum())


def fit(points: Array, scores: Array, prior: Prior) -> Settings:
    """The hyperparameters of greatest posterior density.

    Args:
        points: shape ``(N, D)``, each weight's range of length 1.
        scores: shape ``(N,)``, mean 0 and variance 1.
        prior: what is believed of them.
    """
    step = -(-len(points) // FITTED)
    mode = _Mode(points[::step], scores[::step], prior)
    climb = minimize(
        mode.descent, mode.start, jac=True, method="L-BFGS-B", bounds=mode.bounds, options={"maxiter": STEPS}
    )
    return mode.settings(climb.x)


class _Mode:
    """The posterior density of the hyperparameters, as a function of one vector.

    Its layout: shared log length scale, each weight's deviation from it (D), the waves' log length scale (if any), the
    kernels' log variances, log noise.
    """

    def __init__(self, points: Array, scores: Array, prior: Prior) -> None:
        dimensions = points.shape[1]
        self._scores = scores
        self._count = dimensions
        self._waves = prior.waves is not None
        self._smooth = prior.smooth
        self._features = [points] if prior.waves is None else [points, points @ prior.waves]
        self._precision = np.linalg.inv(prior.likeness * prior.spread**2 + 1e-9 * np.eye(dimensions))
        waves = 0 if prior.waves is None else prior.waves.shape[1]
        shared = [0.37 + 0.5 * math.log(dimensions)]  # 1.4 roots of the dimensions
        own = [1.0 + 0.5 * math.log(waves)] if waves else []
        variances = [0.0, -1.5] if waves else [0.0]
        noise, self._noise_spread = (math.log(0.05), 1.5) if prior.noise is None else (math.log(prior.noise), 0.3)
        self.start: Array = np.array([*shared, *np.zeros(dimensions), *own, *variances, noise])
        wide = [(-5.0, 5.0)] * dimensions
        self.bounds = [(-2.0, 7.0), *wide, *[(-3.0, 6.0)] * len(own), *[(-7.0, 4.0)] * len(variances), (-10.0, 1.5)]

    def settings(self, vector: Array) -> Settings:
        """The hyperparameters a vector stands for."""
        after = 1 + self._count
        scales = [np.exp(-(vector[0] + vector[1:after]))]
        if self._waves:
            scales.append(np.full(self._features[1].shape[1], math.exp(-vector[after])))
        variances = vector[after + len(scales) - 1 : -1]
        return Settings(tuple(scales), tuple(np.exp(variances).tolist()), math.exp(vector[-1]), self._smooth)

    def descent(self, vector: Array) -> tuple[float, Array]:
        """Minus the log density, but for a constant, and its gradient."""
        settings = self.settings(vector)
        scaled = [f * s for f, s in zip(self._features, settings.scales, strict=True)]
        parts = [_kernel(_squares(f, f), a, settings.smooth) for f, a in zip(scaled, settings.amplitudes, strict=True)]
        covariance = sum(k for k, _ in parts) + (settings.noise + JITTER) * np.eye(len(self._scores))
        triangle = _cholesky(covariance)
        inverse: Array = cho_solve((triangle, True), np.eye(len(self._scores)))
        centre = _centre(inverse, self._scores)
        rest = self._scores - centre
        coefficients = inverse @ rest
        height = 0.5 * rest @ coefficients + np.log(np.diag(triangle)).sum() + 0.5 * centre**2
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
        before, slope = self._before(vector)
        return float(height) + before, gradient + slope

    def _before(self, vector: Array) -> tuple[float, Array]:
        """Minus the prior's log density, and its gradient."""
        away = vector - self.start
        slope = away.copy()
        slope[1 : 1 + self._count] = self._precision @ away[1 : 1 + self._count]
        slope[-1] /= self._noise_spread**2
        return 0.5 * float(away @ slope), slope


def _mapped(points: Array, waves: Array | None) -> Array:
    return points if waves is None else points @ waves


def _squares(a: Array, b: Array) -> Array:
    squares: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * (a @ b.T)
    return np.maximum(squares, 0.0)


def _kernel(squares: Array, amplitude: float, smooth: bool) -> tuple[Array, Array]:
    """Covariances at these squared distances, and how fast they fall: minus their derivative by half a square."""
    if smooth:
        bell: Array = amplitude * np.exp(-0.5 * squares)
        return bell, bell
    r = ROOT5 * np.sqrt(squares)
    decay = amplitude * np.exp(-r)
    return (1.0 + r + r**2 / 3.0) * decay, (5.0 / 3.0) * (1.0 + r) * decay


def _scale_pull(weights: Array, features: Array) -> Array:
    """``sum_ij weights_ij (features_i - features_j)^2`` per feature, shape ``(F,)``; the weights are symmetric."""
    pull: Array = 2.0 * ((features**2).T @ weights.sum(axis=1) - (features * (weights @ features)).sum(axis=0))
    return pull


def _cholesky(covariance: Array) -> Array:
    """The lower triangle; with more jitter if rounding has made the matrix indefinite."""
    jitter = 0.0
    while True:
        try:
            return np.asarray(np.linalg.cholesky(covariance + jitter * np.eye(len(covariance))))
        except np.linalg.LinAlgError:
            jitter = max(10.0 * jitter, 1e-8)


def _centre(inverse: Array, scores: Array) -> float:
    """The posterior mean of the constant mean, whose prior is a standard normal distribution."""
    return float(inverse.sum(axis=0) @ scores / (inverse.sum() + 1.0))
