"""Centres of several models: the mean, the mean on the sphere, and the point that Model Stock predicts.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. All are
defined and finite for zero, constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical
models. Means on the sphere are weighted sums of the models, so that their search needs only the angles between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.vectors import Table, lengths_and_angles, plus, products, sizes, times
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = 1e-6  # the shortest sum of unit vectors that still has a direction in fp32


@merge_method(elementwise=True, linear=True, cost=Cost(2), aliases=("average",))
def n_average(a: Tensor, b: Tensor, c: Tensor | None = None, *more: Tensor, alpha: Weight = 1.0) -> Tensor:
    """`A + alpha (M - A)`, M the mean of all models.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``.
        more: Tensors like ``a``.
        alpha: how far from A (0) to the mean (1); any number.
    """
    return a.lerp(_mean((a, b, *_given(c), *more)), alpha)


def _given(c: Tensor | None) -> tuple[Tensor, ...]:
    return () if c is None else (c,)


def _mean(models: Sequence[Tensor]) -> Tensor:
    """The mean, exactly A for identical models."""
    mean = models[0]
    for count, model in enumerate(models[1:], start=2):
        mean = mean.lerp(model, 1 / count)
    return mean


def _stock(a: Tensor, b: Tensor, c: Tensor, *more: Tensor) -> Prepared:
    """How far Model Stock goes from the base to the mean."""
    models = (a, b, *more)
    table = products(models, sizes(models, c), c)
    lengths = [math.sqrt(table[i][i]) for i in range(len(models))]
    cosines = [
        table[i][j] / (lengths[i] * lengths[j]) if lengths[i] and lengths[j] else 0.0
        for i, j in itertools.combinations(range(len(models)), 2)
    ]
    mean, count = min(max(sum(cosines) / len(cosines), 0.0), 1.0), len(models)
    return (count * mean / (1 + (count - 1) * mean),)


@merge_method(elementwise=True, prepare=_stock, cost=Cost(6, 3.5), aliases=("n_model_stock",))
def model_stock(
    a: Tensor, b: Tensor, c: Tensor, *more: Tensor, alpha: Weight = 1.0, prepared: Prepared | None = None
) -> Tensor:
    """`C + alpha t mean_i(X_i - C)` with `t = N s / (1 + (N - 1) s)`, `s` the mean cosine of N differences.

    The more similar the differences, the nearer to their mean; at right angles the result is C. The cosines are
    of whole tensors, over all pairs, and `s` below 0 counts as 0 (t has a pole at -1 / (N - 1)). A zero difference has
    cosine 0. Source: https://arxiv.org/abs/2403.19522 (sd-mecha takes cosines along the last dimension, three numbers
    of a 3x3 convolution, and reaches the pole).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the step from C; 1 is Model Stock, any number.
        prepared: how far to go, where it is known.
    """
    (step,) = prepared or _stock(a, b, c, *more)
    return plus(c, _mean([model - c for model in (a, b, *more)]), alpha * step)


def _sphere(a: Tensor, b: Tensor, c: Tensor | None = None, *more: Tensor) -> Prepared:
    """Lengths of the models, and the cosines between them."""
    lengths, angles = lengths_and_angles((a, b, *_given(c), *more))
    return lengths, [[math.cos(angle) for angle in row] for row in angles]


@merge_method(elementwise=True, prepare=_sphere, cost=Cost(5, 2.5), aliases=("karcher_mean",))
def karcher(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *more: Tensor,
    alpha: Weight = 1.0,
    prepared: Prepared | None = None,
) -> Tensor:
    """`A + alpha (K - A)`, K the Karcher mean of the models' directions at their mean length.

    The point on the sphere with the smallest sum of squared angles to all models, tensors taken as one vector; a model
    that is zero counts for the length only. The plain mean where the directions are within 1e-6 rad of each other, and
    where they cancel out. Of two models it is slerp's middle. Source: H. Karcher, doi.org/10.1002/cpa.3160300502, as in
    mergekit.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``.
        more: Tensors like ``a``.
        alpha: how far from A (0) to the mean (1); any number.
        prepared: lengths and cosines, where they are known.
    """
    models = (a, b, *_given(c), *more)
    lengths, cosines = prepared or _sphere(*models)
    shares = _karcher_shares(cosines, [float(length > 0) for length in lengths])
    if shares is None:
        return a.lerp(_mean(models), alpha)
    return a.lerp(_mix(models, lengths, shares, sum(lengths) / len(lengths)), alpha)


def _mix(models: Sequence[Tensor], lengths: Sequence[float], shares: Sequence[float], length: float) -> Tensor:
    """The models at length one, their shares of them added up, at this length."""
    factors = [share * length / own if own else 0.0 for share, own in zip(shares, lengths, strict=True)]
    total = times(models[0], factors[0])
    for model, factor in zip(models[1:], factors[1:], strict=True):
        total.add_(times(model, factor))
    return total


def _dot(x: Sequence[float], cosines: Table, y: Sequence[float]) -> float:
    """Inner product of two weighted sums of unit vectors."""
    return sum(p * q * cosine for p, row in zip(x, cosines, strict=True) for q, cosine in zip(y, row, strict=True))


def _norm(x: Sequence[float], cosines: Table) -> float:
    return math.sqrt(max(_dot(x, cosines, x), 0.0))


def _start(cosines: Table, weights: Sequence[float]) -> list[float] | None:
    """The weighted sum of the unit vectors at length one, or ``None`` where they cancel out or are all one."""
    used = [i for i, weight in enumerate(weights) if weight != 0]
    norm = _norm(weights, cosines)
    apart = any(cosines[i][j] < math.cos(_NOTHING) for i, j in itertools.combinations(used, 2))
    return [weight / norm for weight in weights] if apart and norm > _NOTHING else None


def _step(cosines: Table, mean: Sequence[float], tangent: Sequence[float]) -> list[float]:
    """The exponential map on the sphere: the point reached from ``mean`` along ``tangent``."""
    length = _norm(tangent, cosines)
    slope = math.sin(length) / length if length > 0 else 1.0
    moved = [math.cos(length) * m + slope * t for m, t in zip(mean, tangent, strict=True)]
    norm = _norm(moved, cosines)
    return [m / norm for m in moved]


def _karcher_shares(cosines: Table, weights: Sequence[float]) -> list[float] | None:
    """Share of each unit vector in the Karcher mean; see ``_start`` for ``None``."""
    mean = _start(cosines, weights)
    total = sum(weights)
    for _ in range(100 if mean else 0):
        assert mean is not None
        tangent = [0.0] * len(mean)
        for i, weight in enumerate(weights):
            cosine = min(max(sum(m * row[i] for m, row in zip(mean, cosines, strict=True)), -1.0), 1.0)
            theta = math.acos(cosine)
            if weight == 0 or math.sin(theta) < 1e-9:  # the mean itself, or opposite, where no way is shorter
                continue
            pull = weight / total * theta / math.sin(theta)
            tangent = [t - pull * cosine * m for t, m in zip(tangent, mean, strict=True)]
            tangent[i] += pull
        mean = _step(cosines, mean, tangent)
        if _norm(tangent, cosines) < 1e-9:
            break
    return mean


def _sum_beyond_one(weights: Mapping[str, float]) -> str | None:
    total = weights["alpha"] + weights["beta"]
    return f"needs alpha + beta of at most 1, not {total:g}" if total > 1 else None


@merge_method(
    elementwise=True,
    prepare=_sphere,
    search={"alpha": (0.0, 0.5), "beta": (0.0, 0.5)},
    bounds={"alpha": (0.0, 1.0), "beta": (0.0, 1.0)},
    pole=_sum_beyond_one,
    cost=Cost(7, 3.5),
)
def multislerp(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    alpha: float = 1 / 3,
    beta: float = 1 / 3,
    prepared: Prepared | None = None,
) -> Tensor:
    """triple_sum on the sphere: the direction of `sum_i(w_i u_i)` at the length `sum_i(w_i |X_i|)`.

    The weights are `1 - alpha - beta, alpha, beta` and `u_i` the directions of A, B and C, tensors taken as one vector.
    The weighted sum itself where the directions are within 1e-6 rad of each other, and where they cancel out; exactly
    one model where it has all the weight. Source: mergekit's multislerp (its further step in the tangent space is
    always zero), https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``.
        alpha: share of B, in [0, 1].
        beta: share of C, in [0, 1]; A gets what is left, ``alpha + beta`` is at most 1.
        prepared: lengths and cosines, where they are known.
    """
    models, weights = (a, b, c), (max(1 - alpha - beta, 0.0), alpha, beta)
    lengths, cosines = prepared or _sphere(*models)
    mean = _start(cosines, [weight * (length > 0) for weight, length in zip(weights, lengths, strict=True)])
    if mean is None:
        total = alpha + beta
        return a.lerp(b.lerp(c, beta / total), total) if total > 0 else a.clone()
    length = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
    return _mix(models, lengths, mean, length)
