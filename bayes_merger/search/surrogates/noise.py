"""How much of a trial's score is noise, from the raw scores of its pictures as a run stores them.

The search does not know the importances of scorers and payloads; but a score is a linear function of the raw
scores, the same in every trial, so its coefficients can be computed from the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes_merger.search.space.cube import Array

UNEXPLAINED = 1e-3
"""If the raw scores leave more than this share of the scores' variance unexplained, they do not determine it."""

Pictures = Sequence[Mapping[str, Any]]

Image = tuple[str, int]
"""A picture by its payload and its index."""


def noise_variance_of_scores(pictures: Sequence[Pictures], scores: Array) -> float | None:
    """Variance of the noise in one trial's score.

    Args:
        pictures: of each trial, its raw scores as a run stores them under ``scores``; empty where it has none.
        scores: of each trial, finite.

    Returns:
        The variance in squared units of the scores; None where the pictures do not determine it.
    """
    if len(pictures) != len(scores):
        return None
    full = max((len(own) for own in pictures), default=0)
    whole = [i for i, own in enumerate(pictures) if len(own) == full > 0]  # the others were pruned
    if len(whole) < max(4, len(scores) / 4):
        return None
    pictures, scores = [pictures[i] for i in whole], scores[whole]
    try:
        rows = [{(p["scorer"], p["payload"], p["index"]): float(p["value"]) for p in own} for own in pictures]
    except (KeyError, TypeError, ValueError):
        return None  # another program's attribute of the same name
    shared = sorted(set.intersection(*(set(row) for row in rows)), key=str)
    if not shared or any(len(row) != len(shared) for row in rows):
        return None
    table = np.array([[row[key] for key in shared] for row in rows])
    if not np.isfinite(table).all():
        return None
    for known in (1, 2):  # importances of the scorers; of the payloads too
        weights = _weights(table, [key[:known] for key in shared], scores)
        if weights is not None:
            images = list(dict.fromkeys((payload, index) for _, payload, index in shared))
            sums = np.zeros((len(rows), len(images)))
            for column, (_, payload, index) in enumerate(shared):
                sums[:, images.index((payload, index))] += len(images) * weights[column] * table[:, column]
            return noise_variance([dict(zip(images, own, strict=True)) for own in sums.tolist()])
    return None


def at_least(variance: float | None, known: float | None) -> float | None:
    """The greater of what the pictures and what the rater tell, as far as they do."""
    return max((one for one in (variance, known) if one is not None), default=None)


def _weights(table: Array, kinds: Sequence[Any], scores: Array) -> Array | None:
    """The weight of each raw score, if scores are weighted sums of the kinds' means; None if not, or undetermined."""
    order = list(dict.fromkeys(kinds))
    share = np.array([[float(kind == own) for own in order] for kind in kinds])
    share /= share.sum(axis=0)
    means = table @ share
    centred, wanted = means - means.mean(axis=0), scores - scores.mean()
    if len(scores) < len(order) + 2 or not wanted.any():
        return None
    weights, *_ = np.linalg.lstsq(centred, wanted, rcond=1e-9)
    rest = wanted - centred @ weights
    return share @ weights if (rest**2).sum() <= UNEXPLAINED * (wanted**2).sum() else None


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
