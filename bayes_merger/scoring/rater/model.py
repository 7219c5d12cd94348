"""A Gaussian process from the CLIP embedding of a picture to the rating that a person would give it.

    y = m + f(e) + noise,  cov(f(e), f(e')) = s^2 exp(-|e - e'|^2 / (2 l^2)),  var(noise) = r s^2

`m` is the mean of the ratings. The length scale `l` and the noise ratio `r` are those of a small grid under which the
ratings are the most likely, `s^2` the best one for them. With `K = Q diag(lam) Q'` and `z = Q'(y - m)`:

    s^2 = mean(z_i^2 / (lam_i + r)),  log likelihood = -n/2 log s^2 - 1/2 sum(log(lam_i + r))

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equations 2.23 to 2.26 and 2.30.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST = 600
"""Ratings that it learns from, the newest: half a second of work."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)  # times the median distance of two pictures
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class RaterModel:
    """What was learned; from :func:`fit`."""

    known: Array
    mean: float
    length: float
    variance: float
    ratio: float
    weights: Array
    vectors: Array
    values: Array

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in one rating, in points."""
        return float(np.sqrt(self.variance * self.ratio))

    def predict(self, embeddings: Array) -> tuple[Array, Array]:
        """What the person thinks of some pictures, without the noise of a rating.

        Args:
            embeddings: N x width.

        Returns:
            Mean, 0 to 10, and standard deviation, N each.
        """
        near = _kernel(embeddings, self.known, self.length)
        seen = (near @ self.vectors) ** 2 / (self.values + self.ratio)
        sd = np.sqrt(self.variance * np.clip(1 - seen.sum(axis=1), 0, None))
        return np.clip(self.mean + near @ self.weights, 0, 10), sd


def fit(embeddings: Array, ratings: Array) -> RaterModel:
    """Learn from at least two ratings.

    Args:
        embeddings: N x width, oldest first; the newest `MOST` count.
        ratings: 0 to 10, N.
    """
    known, ratings = embeddings[-MOST:], ratings[-MOST:]
    mean = float(ratings.mean())
    squared = _squared(known, known)
    usual = float(np.sqrt(np.median(squared[np.triu_indices(len(known), 1)]))) or 1.0
    best: tuple[float, RaterModel] | None = None
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(np.exp(-squared / (2 * (length * usual) ** 2)))
        values, turned = np.clip(values, 0, None), vectors.T @ (ratings - mean)
        for ratio in NOISES:
            variance = max(float((turned**2 / (values + ratio)).mean()), 1e-12)
            likelihood = -0.5 * (len(known) * np.log(variance) + np.log(values + ratio).sum())
            if best is None or likelihood > best[0]:
                weights = vectors @ (turned / (values + ratio))
                found = RaterModel(known, mean, length * usual, variance, ratio, weights, vectors, values)
                best = (float(likelihood), found)
    assert best is not None
    return best[1]


def _squared(one: Array, other: Array) -> Array:
    lengths: Array = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return np.maximum(lengths - 2 * one @ other.T, 0)


def _kernel(one: Array, other: Array, length: float) -> Array:
    return np.exp(-_squared(one, other) / (2 * length**2))


@dataclass(frozen=True)
class Check:
    """How well ratings are predicted of merges that the model has not seen.

    Attributes:
        ratings: how many were predicted.
        error: root mean square difference between rating and prediction, in points.
        explained: the share of the ratings' variance that is predicted; 0 or less: none.
        inside: the share of ratings within two standard deviations of their prediction, 0.95 where these are right.
    """

    ratings: int
    error: float
    explained: float
    inside: float


def cross_validate(embeddings: Array, ratings: Array, groups: Sequence[str], folds: int = 5) -> Check | None:
    """Predict each rating from those of other merges; None where there are too few of them.

    Args:
        embeddings: N x width.
        ratings: 0 to 10, N.
        groups: the merge of each picture; pictures of one merge are predicted together.
        folds: parts that the merges are divided into, in turn.
    """
    embeddings, ratings, groups = embeddings[-MOST:], ratings[-MOST:], groups[-MOST:]
    names = list(dict.fromkeys(groups))
    if len(names) < 2 * folds:
        return None
    part = np.array([names.index(group) % folds for group in groups])
    mean, sd = np.zeros(len(ratings)), np.zeros(len(ratings))
    for fold in range(folds):
        model, held = fit(embeddings[part != fold], ratings[part != fold]), part == fold
        mean[held], latent = model.predict(embeddings[held])
        sd[held] = np.hypot(latent, model.noise)
    gaps, spread = ratings - mean, float(ratings.var())
    return Check(
        ratings=len(ratings),
        error=float(np.sqrt((gaps**2).mean())),
        explained=float(1 - (gaps**2).mean() / spread) if spread > 0 else 0.0,
        inside=float((np.abs(gaps) <= 2 * sd).mean()),
    )
