"""Differences weighted number by number: by how far, and in which direction, the models have moved.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. All are
defined and finite for zero, constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical
models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.linear import geometric_mean
from bayes_merger.merging.methods.orders import order_statistic
from bayes_merger.merging.methods.vectors import plus
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    elementwise=True,
    adds_difference=True,
    choices={"filter": ("distance", "opposite")},
    cost=Cost(1),
    aliases=("trainDifference", "train"),
)
def train_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0, filter: str = "distance") -> Tensor:
    """`A + 1.8 alpha (B - C) |B - A| / (|B - A| + |B - C|)`: what B learned, least where A is already there.

    Nothing is added where B has not moved from C. With ``filter="opposite"`` the factor is
    `2 max(0, -(A - C)(B - C)) / max(|A - C|, |B - C|)^2` instead of 1.8 times the ratio: only where A and B moved
    opposite ways, hence nothing at all where A is the ancestor itself. Sources: supermerger's trainDifference and
    sd-mecha's add_strict_opposite_mask.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of it; any number, A at 0.
        filter: ``distance`` or ``opposite``.
    """
    learned = b - c
    if filter == "opposite":
        return _opposition(a - c, learned).mul_(learned).mul_(2 * alpha).add_(a)
    distance = (b - a).abs_()
    ratio = distance.div_(learned.abs().add_(distance)).nan_to_num_(nan=0.0)  # 0 / 0: A, B and C are one
    return ratio.mul_(learned).mul_(1.8 * alpha).add_(a)


def _opposition(x: Tensor, y: Tensor) -> Tensor:
    """`max(0, -x y) / max(|x|, |y|)^2`, in [0, 1], as a ratio that cannot underflow; 0 where both are 0."""
    quotient = x.div(y)
    ratio = y.div(x).clamp_(-1, 1).mul_(quotient.clamp(-1, 1)).copysign_(quotient)
    return ratio.nan_to_num_(nan=0.0).neg_().clamp_(min=0)


@merge_method(elementwise=True, bounds={"alpha": (0.0, 1.0)}, cost=Cost(4))
def geometric_sum(a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 0.5) -> Tensor:
    """Real part of `A^(1 - alpha) B^alpha`: zero where either is zero, `cos(pi alpha)` as large where signs differ.

    Exactly A at 0 and exactly B at 1. Equal signs give `sign(A) |A|^(1 - alpha) |B|^alpha`. Source: sd-mecha.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``; if given, the differences to it are multiplied: C where one of them is zero.
        alpha: the exponent, from 0 (A) to 1 (B).
    """
    if alpha in (0, 1):
        return (b if alpha else a).clone()
    if c is not None:
        return c + geometric_sum(a - c, b - c, alpha=alpha)
    size = geometric_mean(a.abs(), b.abs(), alpha)
    # 1 where signs are equal, cos(pi alpha) where they differ; where one is zero the size is zero
    cosine = math.cos(math.pi * alpha)
    factor = a.sign().mul_(b.sign()).mul_((1 - cosine) / 2).add_((1 + cosine) / 2)
    return size.mul_(factor).mul_(a.sign())


@merge_method(elementwise=True, search={"alpha": (0.0, 2.0)}, bounds={"alpha": (0.0, 8.0)}, cost=Cost(10))
def multiply_quotient(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0) -> Tensor:
    """`A (B / C)^(alpha m)`, real part, `m = max(0, -x y) / max(|x|, |y|)^2` of `x = ln|A / C|`, `y = ln|B / C|`.

    A product replaces add_difference's sum, but only where A grew and B shrank, or the other way round. The result is
    A where any of the three is zero, and where B and C are equal in size. A negative quotient contributes with the
    factor `cos(pi alpha m)`. Source: sd-mecha.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: how much of the quotient, 0 (A) to 8; above 1 large quotients may overflow in half precision.
    """
    import torch

    quotient = b.div(c)
    x, y = a.div(c).abs_().log_(), quotient.abs().log_()
    exponent = _opposition(x, y).mul_(alpha)
    negative = torch.lt(quotient, 0, out=torch.empty_like(a))  # 1 where B and C have different signs
    factor = y.mul_(exponent).exp_().mul_(negative.mul_(exponent).mul_(math.pi).cos_())
    zero = (a == 0) | (b == 0) | (c == 0)
    return a * factor.masked_fill_(zero, 1.0) if bool(zero.any()) else factor.mul_(a)


@merge_method(elementwise=True, between=True, cost=Cost(2))
def clip(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0) -> Tensor:
    """`A + alpha (B - C)`, every number limited to the range between A and B.

    Source: sd-meh's ``weights_clip``, which limits any method in this way.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of the difference; any number, A at 0.
    """
    return plus(a, b - c, alpha).clamp_(a.minimum(b), a.maximum(b))


def _important_step(a: Tensor, b: Tensor) -> Prepared:
    """B - A where its importance is an upper outlier, else zero."""
    import torch

    if a.ndim == 0 or a.numel() == 0:
        return (torch.zeros_like(a),)
    rows = (a.shape[0], -1) if a.ndim > 1 else (1, -1)
    log_p, log_q = (x.reshape(rows).double().log_softmax(1) for x in (b, a))
    divergence = log_p.exp().mul_(log_p.sub(log_q)).sum(1, keepdim=True).clamp_(min=0)
    importance = (b - a).abs_().reshape(rows).double().mul_(divergence)
    last = importance.numel() - 1
    low, median, high = (order_statistic(importance, int(q * last)) for q in (0.25, 0.5, 0.75))
    chosen = (importance >= median + 1.5 * (high - low)) & (importance > 0)
    return ((b - a).masked_fill_(~chosen.reshape(a.shape), 0.0),)


@merge_method(elementwise=True, prepare=_important_step, read=("a",), cost=Cost(43, 10))
def arcee_fusion(a: Tensor, b: Tensor, *, alpha: Weight = 1.0, prepared: Prepared | None = None) -> Tensor:
    """`A + alpha m (B - A)`, m the places of outstanding importance `|B - A| KL(softmax of B's row | softmax of A's)`.

    A row holds the weights of one output. Outstanding means at least 1.5 interquartile ranges above the median, and
    above 0; so 0-d tensors and rows of one number, which have no divergence, remain A's. Source: mergekit's
    arcee_fusion (its rows run along the last dimension, three numbers of a 3x3 convolution, and it computes the
    divergence in single precision, which is too coarse for fine-tuned models).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: how much of B at those places; any number, A at 0.
        prepared: `m (B - A)`, if already computed.
    """
    (step,) = prepared or _important_step(a, b)
    return plus(a, step, alpha)
