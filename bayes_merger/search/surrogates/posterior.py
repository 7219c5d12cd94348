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
from operator import itemgetter

import numpy as np
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from threadpoolctl import get_cached_controller

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.grid_gp import posterior
from bayes_merger.search.surrogates.noise import Image, at_least, noise_variance

MIN_TRIALS = 8
"""With fewer trials no process is fitted, and each mean is the observed score."""


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
    trials: Sequence[FrozenTrial],
    scores: Sequence[float],
    pictures: Sequence[Mapping[Image, float]] = (),
    rater: float | None = None,
) -> StudyPosterior:
    """The posterior of each trial, given the scores of all.

    Args:
        trials: those that have a score.
        scores: their scores, finite; greater is better.
        pictures: for each trial the points of its pictures; without them the noise is fitted as well.
        rater: variance of a score that comes from the person who gave it; None where nobody did.
    """
    values = np.array(scores, dtype=float)
    variance = at_least(noise_variance(pictures) if pictures else None, rater)
    points = points_of(trials)
    spread = float(values.std()) if len(values) else 0.0
    if points is None or len(trials) < MIN_TRIALS or not spread > 1e-9 * (1.0 + float(np.abs(values).max())):
        each = tuple(TrialPosterior(t.number, v, v, 0.0) for t, v in zip(trials, values.tolist(), strict=True))
        return StudyPosterior(each, float(np.sqrt(variance or 0.0)), fitted=False)
    centre = float(values.mean())
    with get_cached_controller().limit(limits=1, user_api="blas"):  # the same last bits on every machine
        mean, sd, nugget = posterior(
            points[1], (values - centre) / spread, None if variance is None else variance / spread**2
        )
    each = tuple(
        TrialPosterior(t.number, v, m, s)
        for t, v, m, s in zip(
            trials, values.tolist(), (centre + spread * mean).tolist(), (spread * sd).tolist(), strict=True
        )
    )
    noise = np.sqrt(variance) if variance is not None else spread * np.sqrt(nugget)
    return StudyPosterior(each, float(noise), fitted=True)


def points_of(trials: Sequence[FrozenTrial]) -> tuple[Sequence[str], Array] | None:
    """The parameters of all trials over their ranges.

    Args:
        trials: any.

    Returns:
        The names of the parameters whose range has a width, ``D`` of them, and for each trial a row of where its values
        lie in these ranges, shape ``(len(trials), D)``, 0 to 1; None unless all are numbers that every trial has.
    """
    newest = trials[-1].distributions if trials else {}
    floats = {name: one for name, one in newest.items() if isinstance(one, FloatDistribution)}
    if not floats or len(floats) < len(newest):
        return None
    chosen = itemgetter(*floats)
    try:
        values = np.array([chosen(trial.params) for trial in trials], dtype=float).reshape(len(trials), len(floats))
    except KeyError:
        return None
    low, high = (np.array([getattr(one, end) for one in floats.values()]) for end in ("low", "high"))
    wide = low < high
    names = [name for name, has_width in zip(floats, wide, strict=True) if has_width]
    return (names, (values[:, wide] - low[wide]) / (high - low)[wide]) if names else None
