"""A mixture of Gaussian processes, fitted to what a search has seen: a process with a trend and one without.

Neither suits every landscape. They are weighted by how well each foresees a score from all the others: by the
leave-one-out predictive density, Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, section 5.4.2.
The noise of a score is estimated from the pictures, whose prompts and seeds are the same in every trial, so that no
process takes the noise for signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.noise import Pictures, noise_variance_of_scores
from bayes_merger.search.surrogates.trend_gp import TrendGP, fit

MIN_WEIGHT = 0.03
"""A process with a smaller weight than this is left out."""


class Mixture:
    """Several Gaussian processes, each with its weight w_i, means m_i and standard deviations s_i at a point.

    Args:
        processes: at least one, of standardised scores.
        weights: one per process, adding up to 1.
        centre: mean of the scores.
        unit: standard deviation of the scores; 0 if they are all the same.
    """

    def __init__(self, processes: list[TrendGP], weights: Array, centre: float, unit: float) -> None:
        self._processes = processes
        self._weights = weights
        self._centre = centre
        self._unit = unit

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of what points are worth, without noise: shape ``(M, D)`` to ``(M,)`` twice.

        mean = sum_i w_i m_i   and   sd^2 = sum_i w_i (s_i^2 + m_i^2) - mean^2
        """
        means, deviations = np.array([process.predict(points) for process in self._processes]).transpose(1, 0, 2)
        mean = self._weights @ means
        variance = self._weights @ (deviations**2 + means**2) - mean**2
        return self._centre + self._unit * mean, self._unit * np.sqrt(np.maximum(variance, 0.0))

    def bounds(self, points: Array, kappa: float) -> Array:
        """Upper confidence bounds of the scores, standardised: shape ``(M, D)`` to ``(M,)``.

        sum_i w_i (m_i + kappa s_i), with s_i the deviation of the score, which is 0 where a trial has been
        """
        each = [mean + kappa * sd for mean, sd in (process.predict_score(points) for process in self._processes)]
        return np.asarray(self._weights @ np.array(each))

    def descent(self, point: Array, kappa: float) -> tuple[float, Array]:
        """Minus the upper confidence bound at one point, and its gradient, shape ``(D,)``."""
        bound, gradient = 0.0, np.zeros(len(point))
        for weight, process in zip(self._weights, self._processes, strict=True):
            mean, sd, mean_gradient, sd_gradient = process.gradient(point)
            bound += weight * (mean + kappa * sd)
            gradient += weight * (mean_gradient + kappa * sd_gradient)
        return -bound, -gradient


def fit_mixture(points: Array, scores: Array, pictures: Sequence[Pictures] = ()) -> Mixture:
    """The processes, fitted to the scores.

    Args:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, at least one of them finite; NaN where a trial has none: its place counts as explored.
        pictures: of each trial, its raw scores as a run stores them.
    """
    told = np.isfinite(scores)
    centre, unit = scale_of(scores[told])
    variance = noise_variance_of_scores([p for p, one in zip(pictures, told, strict=False) if one], scores[told])
    noise = None if variance is None or not unit else float(np.clip((math.sqrt(variance) / unit) ** 2, 1e-4, 2.0))
    standardised = np.where(told, (scores - centre) / (unit or 1.0), np.nan)
    processes = []
    for trend in (False, True):
        fitted = fit(points[told], standardised[told], trend=trend, noise=noise)
        processes.append(TrendGP(points, standardised, fitted))
    # w_i = exp(L_i) / sum_j exp(L_j), with L_i the leave-one-out log density of process i
    densities = np.array([process.loo_log_density for process in processes])
    weights = np.exp(densities - densities.max())
    kept = weights >= MIN_WEIGHT * weights.sum()
    used = [process for process, one in zip(processes, kept, strict=True) if one]
    return Mixture(used, weights[kept] / weights[kept].sum(), centre, unit)


def scale_of(scores: Array) -> tuple[float, float]:
    """Mean and standard deviation; the latter is 0 if all are the same. Scores may be as large as 1e200."""
    size = float(np.abs(scores).max()) or 1.0
    scaled = scores / size
    spread = float(scaled.std())
    return float(scaled.mean()) * size, spread * size if spread > 1e-12 else 0.0
