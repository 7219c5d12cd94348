"""How much a trial's score would change with other seeds, from the points of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bayes_merger.search.space.cube import Array

Image = tuple[str, int]
"""A picture by its payload and its index."""


def at_least(variance: float | None, known: float | None) -> float | None:
    """The greater of what the pictures and what the rater tell, as far as they do."""
    return max((one for one in (variance, known) if one is not None), default=None)


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
