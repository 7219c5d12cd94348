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
from bayes_merger.search.surrogates.posterior import points_of

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
    known = points_of(trials)
    if known is None or len(trials) < ENOUGH or max(scores) - min(scores) <= 0.0:
        return ()
    names, points = known
    bins = np.clip(points.T * BINS, 0, BINS - 1).astype(np.int64)
    every, count = _densities(bins), max(5, round(BEST * len(trials)))

    def differences(group: Whole) -> Array:
        """The integral above, for each parameter."""
        found: Array = (every * (_densities(bins[:, group]) / every - 1.0) ** 2).sum(axis=1)
        return found

    found = differences(np.argsort(-np.asarray(scores), kind="stable")[:count])
    draw = np.random.default_rng(0)
    bound = max(differences(draw.permutation(len(trials))[:count]).max() for _ in range(LOTS))
    whole = float(found.sum()) or 1.0
    ranked = sorted(zip(names, found.tolist(), strict=True), key=lambda one: (-one[1], one[0]))
    return tuple(Importance(name, value / whole, value > bound) for name, value in ranked)


def _densities(bins: Whole) -> Array:
    """A density over the bins for each row: counts smoothed over Scott's bandwidth, and one more trial over all."""
    rows, trials = bins.shape
    counts = np.bincount((bins + BINS * np.arange(rows)[:, None]).ravel(), minlength=BINS * rows).reshape(rows, BINS)
    width = np.maximum(1.0, bins.std(axis=1) * trials**-0.2)
    apart = np.abs(np.subtract.outer(np.arange(BINS), np.arange(BINS)))
    kernel = np.exp(-0.5 * (np.arange(BINS) / width[:, None]) ** 2)[:, apart]  # (rows, BINS, BINS)
    smooth = np.einsum("rij,rj->ri", kernel / kernel.sum(axis=1, keepdims=True), counts)
    found: Array = (smooth + 1.0 / BINS) / (trials + 1.0)
    return found
