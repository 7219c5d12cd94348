"""Several Gaussian processes as one, weighted by how well each foresees a score from all the others.

The weights are the leave-one-out predictive densities: Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/,
section 5.4.2. The noise of a score is estimated from the pictures, whose prompts and seeds are the same in every trial,
so that no process takes noise for signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_merger.search.space.block_order import basis, correlation
from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates import block_gp, trend_gp
from bayes_merger.search.surrogates.block_gp import BlockGP, Prior
from bayes_merger.search.surrogates.noise import Pictures, at_least, noise_variance_of_scores
from bayes_merger.search.surrogates.process import Process
from bayes_merger.search.surrogates.trend_gp import TrendGP

MIN_WEIGHT = 0.03
"""A process with a smaller weight than this is left out."""

SHARED, SEPARATE = 0.05, 1.0
"""Standard deviation of the log length scales across weights: practically one for all, or one for each."""

NEIGHBOUR_SHARE = 0.5
"""Share of the variance of log length scales that neighbouring blocks have in common."""


@dataclass(frozen=True)
class Evidence:
    """What processes are fitted to.

    Attributes:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, mean 0 and variance 1, at least one finite; NaN where a trial has none.
        noise: variance of a score's noise; None where it is unknown.
        centre: mean of the scores.
        unit: standard deviation of the scores; 0 if they are all the same.
    """

    points: Array
    scores: Array
    noise: float | None
    centre: float
    unit: float

    @property
    def told(self) -> tuple[Array, Array]:
        """The points that have a score, and their scores."""
        told = np.isfinite(self.scores)
        return self.points[told], self.scores[told]


def evidence_of(
    points: Array, scores: Array, pictures: Sequence[Pictures] = (), rater: float | None = None
) -> Evidence:
    """The scores, standardised, and their noise.

    Args:
        points: shape ``(N, D)``.
        scores: shape ``(N,)``, at least one finite; NaN where a trial has none.
        pictures: of each trial, its raw scores as a run stores them.
        rater: variance of a score that comes from the person who gave it; None where nobody did.
    """
    told = np.isfinite(scores)
    centre, unit = _scale(scores[told])
    variance = noise_variance_of_scores([p for p, one in zip(pictures, told, strict=False) if one], scores[told])
    variance = at_least(variance, rater)
    noise = None if variance is None or not unit else float(np.clip((math.sqrt(variance) / unit) ** 2, 1e-4, 2.0))
    return Evidence(points, np.where(told, (scores - centre) / (unit or 1.0), np.nan), noise, centre, unit)


def _scale(scores: Array) -> tuple[float, float]:
    """Mean and standard deviation; the latter is 0 if all are the same. Scores may be as large as 1e200."""
    size = float(np.abs(scores).max()) or 1.0
    scaled = scores / size
    spread = float(scaled.std())
    return float(scaled.mean()) * size, spread * size if spread > 1e-12 else 0.0


class Ensemble:
    """The processes, with their weights w_i, means m_i and standard deviations s_i at a point.

    Args:
        processes: at least one, conditioned on the evidence.
        evidence: of which they know.
    """

    def __init__(self, processes: Sequence[Process], evidence: Evidence) -> None:
        # w_i = exp(L_i) / sum_j exp(L_j), with L_i the leave-one-out log density of process i
        densities = np.array([process.loo_log_density for process in processes])
        weights = np.exp(densities - densities.max())
        kept = weights >= MIN_WEIGHT * weights.sum()
        self._processes = [process for process, one in zip(processes, kept, strict=True) if one]
        self._weights: Array = weights[kept] / weights[kept].sum()
        self._evidence = evidence

    def leaders(self, count: int) -> tuple[Array, float]:
        """The trials of the greatest posterior mean, shape ``(count, D)``, and that mean, standardised."""
        known, _ = self._evidence.told
        means, _ = self.predict_score(known)
        return known[np.argsort(-means, kind="stable")[:count]], float(means.max())

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of what points are worth, without noise: shape ``(M, D)`` to ``(M,)`` twice.

        mean = sum_i w_i m_i   and   sd^2 = sum_i w_i (s_i^2 + m_i^2) - mean^2
        """
        means, deviations = np.array([process.predict(points) for process in self._processes]).transpose(1, 0, 2)
        mean = self._weights @ means
        variance = self._weights @ (deviations**2 + means**2) - mean**2
        unit = self._evidence.unit
        return self._evidence.centre + unit * mean, unit * np.sqrt(np.maximum(variance, 0.0))

    def predict_score(self, points: Array) -> tuple[Array, Array]:
        """Mean and deviation of the score, standardised: ``sum_i w_i m_i`` and ``sum_i w_i s_i``.

        The deviation is 0 where a trial has been, for there all processes agree on the score, if not on its worth.
        """
        means, deviations = np.array([process.predict_score(points) for process in self._processes]).transpose(1, 0, 2)
        return self._weights @ means, self._weights @ deviations

    def gradient(self, point: Array) -> tuple[float, float, Array, Array]:
        """The same at one point, and their gradients, shape ``(D,)``."""
        means, deviations, uphill, outward = zip(*(one.gradient(point) for one in self._processes), strict=True)
        mean, deviation = float(self._weights @ means), float(self._weights @ deviations)
        return mean, deviation, self._weights @ np.array(uphill), self._weights @ np.array(outward)


def fit_shared(evidence: Evidence) -> Ensemble:
    """Two processes with one length scale for all weights, one of them with a trend: for few scores."""
    fits = [trend_gp.fit(*evidence.told, trend=trend, noise=evidence.noise) for trend in (False, True)]
    return Ensemble([TrendGP(evidence.points, evidence.scores, fitted) for fitted in fits], evidence)


def fit_separate(evidence: Evidence, names: tuple[str, ...], *, blocks: bool) -> Ensemble:
    """Three processes that find out which weights matter.

    One has a single length scale and a smooth landscape; one a length scale per weight, since few weights matter much.
    Where the names of the weights contain blocks, a third correlates the length scales of neighbouring blocks, and slow
    basis functions over the blocks (their mean, the trend from the outside in, IN against OUT) have a kernel of their
    own.
    """
    independent = np.eye(evidence.points.shape[1])
    priors = [
        Prior(SHARED, independent, noise=evidence.noise, smooth=True),
        Prior(SEPARATE, independent, noise=evidence.noise),
    ]
    slow = basis(names) if blocks else None
    if slow is not None:
        related = (1.0 - NEIGHBOUR_SHARE) * independent + NEIGHBOUR_SHARE * correlation(names)
        priors.append(Prior(SEPARATE, related, slow, evidence.noise))
    processes = []
    for prior in priors:
        fitted = block_gp.fit(*evidence.told, prior)
        processes.append(BlockGP(evidence.points, evidence.scores, fitted, prior.basis))
    return Ensemble(processes, evidence)
