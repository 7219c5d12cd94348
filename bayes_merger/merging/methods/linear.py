"""Sums and differences of models, number by number (and one that rescales the result as a whole).

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. All are
defined and finite for zero, constant, identical and opposite inputs, 0-d and empty tensors. Where all models are
identical the result is exactly A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.vectors import pieces, plus, products, sizes, sum_of, times
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:  # the registry is read by commands that need no torch
    from torch import Tensor


@merge_method(
    elementwise=True, linear=True, fused=True, between=True, cost=Cost(1), aliases=("sum", "weight", "linear", "lerp")
)
def weighted_sum(a: Tensor, b: Tensor, *, alpha: Weight = 0.5) -> Tensor:
    """`(1 - alpha) A + alpha B`; exactly A at 0 and exactly B at 1.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: share of B; outside [0, 1] it extrapolates.
    """
    return a.lerp(b, alpha)


@merge_method(
    elementwise=True, linear=True, adds_difference=True, cost=Cost(1), aliases=("add", "difference", "task_arithmetic")
)
def add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0) -> Tensor:
    """`A + alpha (B - C)`: what training turned C into B, added to A.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of the difference; any number.
    """
    return plus(a, b - c, alpha)


def _subtraction_pole(weights: Mapping[str, float]) -> str | None:
    product = weights["alpha"] * weights["beta"]
    return f"divides by 1 - alpha * beta: {product:g} is not below 1; lower alpha or beta" if product >= 1 else None


@merge_method(elementwise=True, linear=True, search={"beta": (0.0, 0.5)}, pole=_subtraction_pole, cost=Cost(1))
def weighted_subtraction(a: Tensor, b: Tensor, *, alpha: Weight = 0.5, beta: Weight = 0.5) -> Tensor:
    """`(A - alpha beta B) / (1 - alpha beta)`: the model that, mixed with that share of B, gives A.

    Computed as a step from A away from B, so that identical models give A.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: one factor of the share of B to take out.
        beta: the other; ``alpha * beta`` must lie below 1, its pole.
    """
    share = alpha * beta
    return plus(a, a - b, share / (1 - share))


@merge_method(elementwise=True, linear=True, between=True, cost=Cost(1), aliases=("twice",))
def sum_twice(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 0.5, beta: Weight = 0.5) -> Tensor:
    """`(1 - beta) ((1 - alpha) A + alpha B) + beta C`: a weighted sum of a weighted sum and C.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``.
        alpha: share of B in the first sum.
        beta: share of C in the second.
    """
    return a.lerp(b, alpha).lerp_(c, beta)


@merge_method(
    elementwise=True, linear=True, search={"alpha": (0.0, 0.5), "beta": (0.0, 0.5)}, cost=Cost(1), aliases=("triple",)
)
def triple_sum(a: Tensor, b: Tensor, c: Tensor, *, alpha: float = 0.25, beta: float = 0.25) -> Tensor:
    """`(1 - alpha - beta) A + alpha B + beta C`.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``.
        alpha: share of B.
        beta: share of C; A gets what is left.
    """
    total = alpha + beta
    if alpha < 0 or beta < 0 or total == 0:  # the nested form divides by the total
        return a.add(b - a, alpha=alpha).add_(c - a, alpha=beta)
    return a.lerp(b.lerp(c, beta / total), total)  # exact when one model has all the weight


@merge_method(elementwise=True, bounds={"alpha": (0.0, 1.0)}, cost=Cost(6))
def multiply_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float = 0.5, beta: Weight = 0.5) -> Tensor:
    """`C + sign((1 - beta) A + beta B - C) |A - C|^(1 - alpha) |B - C|^alpha`: geometric mean of two differences.

    A place where one model did not move from C stays at C (for 0 < alpha < 1), and so does one where the mix by beta
    lies exactly on C.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: whose size counts, 0 (A's) to 1 (B's).
        beta: whose direction counts, 0 (A's) to 1 (B's).
    """
    size = geometric_mean((a - c).abs_(), (b - c).abs_(), alpha)
    return size.mul_(a.lerp(b, beta).sub_(c).sign_()).add_(c)


def geometric_mean(x: Tensor, y: Tensor, share: float) -> Tensor:
    """`x^(1 - share) y^share` for tensors without negative numbers and a share in [0, 1]; ``x`` itself where x = y.

    By way of logarithms: torch's pow, log2 and exp2 give different last bits at the end of a vector than inside.
    """
    if share in (0, 1):
        return (y if share else x).clone()
    power = y.log().sub_(x.log()).mul_(share).exp_().mul_(x).nan_to_num_(nan=0.0)  # 0 / 0, and infinity times 0
    return power.minimum(x.maximum(y))  # the power may be beyond fp32 where the product is not


def _scales(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Prepared:
    """Lengths of A - C and B - C, and the number that makes the step as long as the weighted sum's."""
    size_a, size_b = sizes((a, b), c)
    squares = products((a, b), (size_a, size_b), c)
    length_a, length_b = (math.sqrt(squares[i][i]) * size for i, size in enumerate((size_a, size_b)))
    largest = max(size_a, size_b)
    if largest == 0:
        return length_a, length_b, 0.0
    step_square = mix_square = 0.0
    for x, y, z in pieces(a, b, c):
        mix, step = _euclidean_step(x, y, z, alpha, length_a, length_b)
        step_square += sum_of(step.square_())
        mix_square += sum_of(mix.div_(largest).square_())
    return length_a, length_b, largest * math.sqrt(mix_square / step_square) if step_square else 0.0


def _euclidean_step(
    a: Tensor, b: Tensor, c: Tensor, alpha: float, length_a: float, length_b: float
) -> tuple[Tensor, Tensor]:
    """The weighted sum's step from C, and the square root of the mean square with its signs."""
    mix = a.lerp(b, alpha).sub_(c)
    u = (a - c).div_(length_a or 1.0).square_().mul_(1 - alpha)
    v = (b - c).div_(length_b or 1.0).square_().mul_(alpha)
    return mix, u.add_(v).sqrt_().mul_(mix.sign())


@merge_method(
    elementwise=True, bounds={"alpha": (0.0, 1.0)}, prepare=_scales, cost=Cost(14, 3.5), aliases=("euclidean",)
)
def euclidean_add_difference(
    a: Tensor, b: Tensor, c: Tensor, *, alpha: float = 0.5, prepared: Prepared | None = None
) -> Tensor:
    """`C + k sign(L) sqrt((1 - alpha) u^2 + alpha v^2)` with `L = (1 - alpha) A + alpha B - C`.

    `u` and `v` are A - C and B - C at unit length (zero where there is no difference), `k` makes the step as long as
    `L`. Where `L` is zero everywhere the result is C, hence A for identical models.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: share of B, in [0, 1].
        prepared: lengths of the differences and k, where they are known.
    """
    length_a, length_b, factor = prepared or _scales(a, b, c, alpha=alpha)
    _, step = _euclidean_step(a, b, c, alpha, length_a, length_b)
    return times(step, factor).add_(c)


@merge_method(elementwise=True, cost=Cost(3), aliases=("similarity",))
def similarity_add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 0.5, beta: Weight = 0.5) -> Tensor:
    """`(1 - s) (A + alpha (B - C)) + s ((1 - alpha/2) A + alpha/2 B)`, `s = beta (A B / max(|A|, |B|)^2 + 1) / 2`.

    Where A and B are alike they are averaged, where they differ the difference is added. The similarity is taken as
    a ratio of the smaller to the larger number, which cannot underflow; where both are zero it is 1.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of B.
        beta: how much similarity counts; 0 is add_difference.
    """
    # One of the two quotients is the ratio of the smaller to the larger, the other one is cut to its sign.
    quotient = a.div(b)
    share = b.div(a).clamp_(-1, 1).mul_(quotient.clamp(-1, 1)).copysign_(quotient).nan_to_num_(nan=1.0)  # 0 / 0
    share.add_(1).mul_(beta / 2)
    return b.sub(c).mul_(alpha).add_(a).lerp_(a.lerp(b, alpha / 2), share)


@merge_method(
    selects=True,
    between=True,
    bounds={"alpha": (0.0, 1.0), "beta": (0.0, 1.0)},
    cost=Cost(0, 1.1),
    aliases=("tensor",),
)
def tensor_sum(a: Tensor, b: Tensor, *, alpha: float = 0.5, beta: float = 0.0) -> Tensor:
    """B's rows in a window of the first dimension, A's elsewhere.

    With n rows the window is `[n beta, n (alpha + beta))`, rounded down; a window past the end goes on at the start.
    A 0-d tensor counts as one row.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: width of the window, share of rows in [0, 1]; A at 0, B at 1.
        beta: where it begins, in [0, 1].
    """
    out = a.clone()
    rows, other = (out.view(1), b.view(1)) if a.ndim == 0 else (out, b)
    count = rows.shape[0]
    begin, end = _row(count * beta), _row(count * (alpha + beta))
    if alpha + beta <= 1:
        rows[begin:end] = other[begin:end]
    else:
        rows[begin:] = other[begin:]
        rows[: end - count] = other[: end - count]
    return out


def _row(place: float) -> int:
    return int(place + 1e-9 * (1 + place))  # 10 * (0.7 + 0.2) is 8.999999999999998 and means 9
