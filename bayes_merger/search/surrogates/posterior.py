"""Which evaluated trial is really the best: scores are noisy, and the posterior mean averages over neighbouring merges.

A Gaussian process is fitted to all scores of a study. Its mean at a trial weighs the trial's own score against those
of the merges around it, so that a single lucky set of pictures no longer looks like the best merge. The noise of a
single score is estimated from the pictures: trials share prompts and seeds, so noise is what remains of a picture's
score after subtracting its trial's mean and its seed's mean.

It runs after every trial, so nothing here is slow to import or to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import matern52, squared_distances

MIN_TRIALS = 8
"""With fewer trials no process is fitted, and each mean is the observed score."""

FITTED = 200
"""At most this many trials are used to fit length scale and noise; all of them are used for the mean."""

Image = tuple[str, int]
"""A picture by its payload and its index."""


@dataclass(frozen=True)
class TrialPosterior:
    """The posterior of one trial.

    Attributes:
        trial: its number.
        observed: its score.
        mean: posterior mean of its score without noise.
        sd: posterior standard deviation; 0 where no process could be fitted.
    """

    trial: int
    observed: float
    mean: float
    sd: float


@dataclass(frozen=True)
class StudyPosterior:
    """The posterior of all trials.

    Attributes:
        each: one per trial that has a score, in their order.
        noise: standard deviation of one score's noise, in points; 0 where it is unknown.
        fitted: whether there was a process; otherwise every mean is the observed score.
    """

    each: tuple[TrialPosterior, ...]
    noise: float
    fitted: bool

    @property
    def best(self) -> TrialPosterior | None:
        """The greatest posterior mean; the first of equals."""
        return max(self.each, key=lambda one: one.mean, default=None)

    @property
    def best_observed(self) -> TrialPosterior | None:
        """The greatest observed score; the first of equals."""
        return max(self.each, key=lambda one: one.observed, default=None)

    def candidates(self, count: int) -> list[int]:
        """The best trials by posterior mean, and the best observed one among them whatever its mean.

        Args:
            count: how many; with 1 the best observed is left out unless it is both.
        """
        ranked = sorted(self.each, key=lambda one: (-one.mean, -one.observed, one.trial))
        chosen = [one.trial for one in ranked[:count]]
        observed = self.best_observed
        if observed and count > 1 and observed.trial not in chosen:
            chosen[-1] = observed.trial
        return chosen


def study_posterior(
    trials: Sequence[FrozenTrial], scores: Sequence[float], pictures: Sequence[Mapping[Image, float]] = ()
) -> StudyPosterior:
    """The posterior of each trial, given the scores of all.

    Args:
        trials: those that have a score.
        scores: their scores, finite; greater is better.
        pictures: for each trial the points of its pictures; without them the noise is fitted as well.
    """
    values = np.array(scores, dtype=float)
    variance = noise_variance(pictures) if pictures else None
    points = _points(trials)
    spread = float(values.std()) if len(values) else 0.0
    if points is None or len(trials) < MIN_TRIALS or not spread > 1e-9 * (1.0 + float(np.abs(values).max())):
        each = tuple(TrialPosterior(t.number, v, v, 0.0) for t, v in zip(trials, values.tolist(), strict=True))
        return StudyPosterior(each, float(np.sqrt(variance or 0.0)), fitted=False)
    centre = float(values.mean())
    with threadpool_limits(limits=1, user_api="blas"):  # the same last bits on every machine
        mean, sd, nugget = posterior(
            points, (values - centre) / spread, None if variance is None else variance / spread**2
        )
    each = tuple(
        TrialPosterior(t.number, v, m, s)
        for t, v, m, s in zip(
            trials, values.tolist(), (centre + spread * mean).tolist(), (spread * sd).tolist(), strict=True
        )
    )
    noise = np.sqrt(variance) if variance is not None else spread * np.sqrt(nugget)
    return StudyPosterior(each, float(noise), fitted=True)


def _points(trials: Sequence[FrozenTrial]) -> Array | None:
    """The trials' parameters over their ranges, one row each; None unless all are numbers that every trial has."""
    if not trials:
        return None
    columns = []
    newest = trials[-1].distributions
    for name, distribution in newest.items():
        if not isinstance(distribution, FloatDistribution) or any(name not in trial.params for trial in trials):
            return None
        if distribution.low < distribution.high:
            columns.append(
                [(float(t.params[name]) - distribution.low) / (distribution.high - distribution.low) for t in trials]
            )
    return np.array(columns, dtype=float).T if columns else None


def posterior(points: Array, scores: Array, noise: float | None) -> tuple[Array, Array, float]:
    """Posterior mean and standard deviation at the observed points themselves.

    With the kernel matrix V diag(v) V^T, amplitude A and noise n, the share of signal along each eigenvector is
    s = A v / (A v + n):

        mean     = V (s * V^T y)
        variance = (V * V) (s n)

    Matern-5/2 process with one length scale, constant mean 0; length scale, amplitude and noise by greatest marginal
    likelihood on a grid (the result of an optimiser could differ between machines). One eigendecomposition per length
    scale gives all amplitudes and noises at once. Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/,
    chapters 2, 5.

    Args:
        points: shape ``(trials, dimensions)``, each dimension's range of length 1.
        scores: shape ``(trials,)``, mean 0 and variance 1.
        noise: variance of a score's independent noise; the fit may take less, since merges that draw nearly the
            same pictures share their noise. None: any.

    Returns:
        Mean and standard deviation, both of shape ``(trials,)``, and the fitted variance of the noise.
    """
    step = -(-len(points) // FITTED)
    length, amplitude, nugget = _fit(points[::step], scores[::step], noise)
    values, vectors = _decomposed(points, length)
    signal = amplitude * values
    share = signal / (signal + nugget)
    mean: Array = vectors @ (share * (vectors.T @ scores))
    variance = (vectors**2) @ (share * nugget)
    return mean, np.sqrt(variance), nugget


def _fit(points: Array, scores: Array, noise: float | None) -> tuple[float, float, float]:
    """Length scale, amplitude (variance) and noise (variance) of the greatest likelihood times a mild prior.

    -1/2 sum_i (log t_i + (V^T y)_i^2 / t_i) with t = A v + n: the log marginal likelihood in the kernel's eigenvectors.
    """
    root = np.sqrt(points.shape[1])
    lengths = root * np.geomspace(0.1, 6.0, 14)
    amplitudes = np.geomspace(0.05, 20.0, 12)
    nuggets = np.geomspace(0.001, 1.0, 13) if noise is None else max(noise, 1e-6) * np.geomspace(0.03, 1.0, 7)
    best = (-np.inf, 0.0, 0.0, 0.0)
    for length in lengths:
        values, vectors = _decomposed(points, float(length))
        squares = (vectors.T @ scores) ** 2
        total = amplitudes[:, None, None] * values + nuggets[None, :, None]
        log_density = -0.5 * (np.log(total) + squares / total).sum(axis=-1)
        # A length scale that grows with the root of the dimensions: Hvarfner and others (2024),
        # https://arxiv.org/abs/2402.02229; amplitudes of a few score variances.
        log_density -= 0.5 * (np.log(length / (1.4 * root)) / 1.7) ** 2
        log_density -= 0.5 * (np.log(amplitudes[:, None]) / 1.5) ** 2
        index = np.unravel_index(int(log_density.argmax()), log_density.shape)
        if log_density[index] > best[0]:
            best = (float(log_density[index]), float(length), float(amplitudes[index[0]]), float(nuggets[index[1]]))
    return best[1:]


def _decomposed(points: Array, length: float) -> tuple[Array, Array]:
    kernel, _ = matern52(np.sqrt(5.0 * squared_distances(points, points)) / length)
    values, vectors = np.linalg.eigh(kernel)
    return np.maximum(values, 0.0), vectors


def noise_variance(pictures: Sequence[Mapping[Image, float]]) -> float | None:
    """Variance of the noise in one trial's score, the mean of its pictures; pooled over all trials.

    In a payload of several pictures, noise is what neither the trial (how good is this merge at this prompt) nor the
    seed (how easy is this noise) explains. Payloads of one picture are assumed to be as noisy as the others; if
    all are of one picture, differences between merges across prompts count as noise as well.

    Args:
        pictures: for each trial the points of its pictures, importances included, so that their mean is its score.

    Returns:
        The variance, in squared points; None when there are not two trials of two shared pictures.
    """
    shared = sorted(set.intersection(*(set(own) for own in pictures))) if pictures else []
    if len(pictures) < 2 or len(shared) < 2:
        return None
    table = np.array([[own[image] for image in shared] for own in pictures], dtype=float)
    payloads = [payload for payload, _ in shared]
    columns = {name: [i for i, payload in enumerate(payloads) if payload == name] for name in dict.fromkeys(payloads)}
    variances = {name: _unexplained(table[:, own]) for name, own in columns.items() if len(own) > 1}
    if not variances:
        return _unexplained(table) / len(shared)
    usual = sum(variances.values()) / len(variances)
    return sum(len(own) * variances.get(name, usual) for name, own in columns.items()) / len(shared) ** 2


def _unexplained(table: Array) -> float:
    """Residual variance after subtracting the means of rows and columns."""
    rows, columns = table.shape
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return float((rest**2).sum() / ((rows - 1) * (columns - 1)))
