"""Which parameters the best trials agree on: a hint at what matters, never a proof.

PED-ANOVA (Watanabe and others, 2023, https://arxiv.org/abs/2304.10255): where the density of a parameter among the best
tenth of the trials, q, differs from that among all, p, the parameter matters by

    integral p(x) (q(x) / p(x) - 1)^2 dx

It sees one parameter at a time, and of few trials it sees luck. So the same is computed for groups of trials that were
drawn by lot instead of by score; what does not exceed those is not told from luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from bayes_merger.search.space.cube import Array

Whole = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
"""Bins, or places of trials."""

BEST = 0.1
"""The share of trials whose density is compared with that of all."""

ENOUGH = 30
"""With fewer trials nothing is said."""

BINS = 40
LOTS = 19
"""Groups drawn by lot; luck exceeds all of them once in twenty times."""

CAVEAT = "a rough hint (PED-ANOVA): one number at a time, blind to what works only together"


@dataclass(frozen=True)
class Importance:
    """How much one parameter seems to matter.

    Attributes:
        name: of the parameter.
        share: of all parameters' importance, 0 to 1.
        beyond_luck: whether 19 groups of trials drawn by lot show less, of whichever parameter shows most.
    """

    name: str
    share: float
    beyond_luck: bool


def importances(trials: Sequence[FrozenTrial], scores: Sequence[float]) -> tuple[Importance, ...]:
    """The parameters, most important first; empty where there are too few trials, or all scores are equal.

    Args:
        trials: those that have a score.
        scores: theirs; greater is better.
    """
    if len(trials) < ENOUGH or max(scores) - min(scores) <= 0.0:
        return ()
    names = [name for name in trials[0].params if all(name in trial.params for trial in trials)]
    bins = np.array([_bins(trials, name) for name in names])
    count = max(5, round(BEST * len(trials)))
    order = np.argsort(-np.asarray(scores), kind="stable")
    found = _differences(bins, order[:count])
    draw = np.random.default_rng(0)
    luck = [_differences(bins, draw.permutation(len(trials))[:count]).max() for _ in range(LOTS)]
    bound, whole = max(luck), float(found.sum()) or 1.0
    ranked = sorted(zip(names, found.tolist(), strict=True), key=lambda one: (-one[1], one[0]))
    return tuple(Importance(name, value / whole, value > bound) for name, value in ranked)


def _bins(trials: Sequence[FrozenTrial], name: str) -> Whole:
    """The bin of each trial's value, over the parameter's range."""
    low, high = (getattr(trials[-1].distributions[name], end) for end in ("low", "high"))
    values = np.array([float(trial.params[name]) for trial in trials])
    found: Whole = np.clip((values - low) / ((high - low) or 1.0) * BINS, 0, BINS - 1).astype(np.int64)
    return found


def _differences(bins: Whole, best: Whole) -> Array:
    """The integral above, for each row of bins."""
    return np.array([_difference(_density(row), _density(row[best])) for row in bins])


def _difference(every: Array, best: Array) -> float:
    return float((every * (best / every - 1.0) ** 2).sum())


def _density(bins: Whole) -> Array:
    """A density over the bins: counts smoothed over Scott's bandwidth, and one more trial spread over all."""
    places = np.arange(BINS)
    width = max(1.0, float(bins.std()) * len(bins) ** -0.2)
    kernel = np.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2)
    smooth = (kernel / kernel.sum(axis=0)) @ np.bincount(bins, minlength=BINS)
    found: Array = (smooth + 1.0 / BINS) / (len(bins) + 1.0)
    return found
