"""Directions: models as vectors, their lengths and the angles between them.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. Lengths are
taken of tensors brought to size one, so that neither tiny nor huge numbers are lost in squares. All are defined and
finite for zero, constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bayes_merger.merging.method import Weight, merge_method

if TYPE_CHECKING:
    from torch import Tensor

_NO_ANGLE = 1e-6  # radians; two directions that close (or that close to opposite) span no plane in fp32


def directions(x: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """The unit vector along ``x`` and its length, as a pair; a zero vector has direction and length zero.

    Args:
        x: Tensor of any shape, a vector as a whole or along ``dim``.
        dim: the dimension that the vectors lie along; ``None`` takes ``x`` as one vector.

    Returns:
        Tensor like ``x``, and Tensor that broadcasts against it.
    """
    if x.numel() == 0:
        return x, x.new_zeros(())
    size = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    safe = size.masked_fill(size == 0, 1.0)
    scaled = x / safe
    # not below 1, since one number is 1 or -1, but for zero vectors
    length = _length(scaled, dim).clamp_(min=1.0)
    return scaled.div_(length), length * size


def _length(x: Tensor, dim: int | None) -> Tensor:
    """Euclidean length, with the pairwise sum that torch's own norm lacks: its 4th digit is wrong at 10^7 numbers."""
    squares = x.square()
    return (squares.sum() if dim is None else squares.sum(dim, keepdim=True)).sqrt_()


def angle(u: Tensor, v: Tensor, dim: int | None = None) -> Tensor:
    """Angle between unit vectors in radians, `2 atan2(|u - v|, |u + v|)`: exact also near 0 and pi, unlike acos.

    See W. Kahan, "How futile are mindless assessments of roundoff", section 12.
    """
    return _length(u - v, dim).atan2(_length(u + v, dim)).mul_(2)


@merge_method(elementwise=False)
def slerp(a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: Weight = 0.5) -> Tensor:
    """`(sin((1 - alpha) w) u + sin(alpha w) v) / sin(w)` times `(1 - alpha) |A| + alpha |B|`: along the arc.

    `u` and `v` are A and B at length one and `w` the angle between them, of the tensor as one vector. Exactly A at 0
    and exactly B at 1. The weighted sum where there is no arc: a zero tensor, or directions less than 1e-6 rad apart or
    from opposite (there the way leads through zero). Source: https://dl.acm.org/doi/10.1145/325165.325242; the length
    is interpolated separately, as in sd-mecha.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``: if given, the differences to it are interpolated.
        alpha: how far from A to B; outside [0, 1] it goes on along the circle.
    """
    if alpha in (0, 1):
        return (b if alpha else a).clone()
    if c is not None:
        return c + slerp(a - c, b - c, alpha=alpha)
    (u, length_a), (v, length_b) = directions(a), directions(b)
    arc, size_a, size_b = float(angle(u, v)), float(length_a), float(length_b)
    if size_a == 0 or size_b == 0 or not _NO_ANGLE < arc < math.pi - _NO_ANGLE:
        return a.lerp(b, alpha)
    length = ((1 - alpha) * size_a + alpha * size_b) / math.sin(arc)
    return u.mul_(math.sin((1 - alpha) * arc) * length).add_(v, alpha=math.sin(alpha * arc) * length)


@merge_method(elementwise=False, choices={"vectors": ("tensor", "rows")})
def nuslerp(a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: Weight = 0.5, vectors: str = "tensor") -> Tensor:
    """`(sin((1 - alpha) w) A + sin(alpha w) B) / sin(w)`: slerp's shares of A and B, without lengths of their own.

    Exactly A at 0 and exactly B at 1. The weighted sum where the angle `w` is less than 1e-6 rad from 0 or pi, or one
    vector is zero. Source: mergekit's nuslerp (its rows are along the last dimension, three numbers of a 3x3
    convolution; ours are all numbers that feed one output).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``: if given, the differences to it are interpolated.
        alpha: how far from A to B; outside [0, 1] it goes on along the circle.
        vectors: ``tensor`` takes it as one vector, ``rows`` gives each output its own angle.
    """
    if alpha in (0, 1) or a.numel() == 0:
        return (b if alpha else a).clone()
    if c is not None:
        return c + nuslerp(a - c, b - c, alpha=alpha, vectors=vectors)
    rows = (a.shape[0], -1) if vectors == "rows" and a.ndim > 1 else (1, -1)
    x, y = a.reshape(rows), b.reshape(rows)
    (u, length_a), (v, length_b) = directions(x, 1), directions(y, 1)
    arc = angle(u, v, 1).double()
    flat = (length_a == 0) | (length_b == 0) | (arc < _NO_ANGLE) | (arc > math.pi - _NO_ANGLE)
    arc.masked_fill_(flat, 1.0)
    share_a, share_b = (((1 - alpha) * arc).sin() / arc.sin()).float(), ((alpha * arc).sin() / arc.sin()).float()
    return (share_a * x + share_b * y).where(~flat, x.lerp(y, alpha)).reshape(a.shape)


def perpendicular_component(a: Tensor, b: Tensor) -> Tensor:
    """`b - a <a, b> / |a|^2`: the part of ``b`` that is at a right angle to ``a``; ``b`` itself where ``a`` is zero.

    Args:
        a: Tensor of any shape, one vector.
        b: Tensor like ``a``.
    """
    along, _ = directions(a)
    return b.sub(along * (along * b).sum())


@merge_method(elementwise=False, aliases=("perpendicular", "perpendicular_component"))
def add_perpendicular(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0) -> Tensor:
    """`A + alpha P`, with P the part of B - C that is perpendicular to A - C: only what B learned and A did not.

    Where A did not move from C all of B - C is added (sd-mecha's add_perpendicular adds nothing there).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: how much of it; any number, A at 0.
    """
    return a.add(perpendicular_component(a - c, b - c), alpha=alpha)


@merge_method(elementwise=False, between=True)
def add_cosine_a(a: Tensor, b: Tensor, *, alpha: Weight = 1.0) -> Tensor:
    """`(1 - k) A + k B` with `k = 1 - clamp(s - alpha, 0, 1)`, `s` the cosine of A and B along the first dimension.

    What is alike stays A's, what differs becomes B's, and alpha pushes all towards B: exactly B at 1; at 0 it is A
    only where both point the same way. A zero vector has cosine 0 with anything. 0-d and 1-d tensors have one cosine.
    Source: sd-mecha; supermerger's cosineA without its statistics of the whole model.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: what is taken off the cosine.
    """
    return _add_cosine(a, b, _column_cosine(a, b), alpha)


@merge_method(elementwise=False, between=True)
def add_cosine_b(a: Tensor, b: Tensor, *, alpha: Weight = 1.0) -> Tensor:
    """`(1 - k) A + k B` as in add_cosine_a, with `s` the mean of that cosine and the cosine of the whole tensors.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: what is taken off the cosine; exactly B at 1.
    """
    whole = (directions(a)[0] * directions(b)[0]).sum()
    return _add_cosine(a, b, (_column_cosine(a, b) + whole) / 2, alpha)


def _column_cosine(a: Tensor, b: Tensor) -> Tensor:
    x, y = (a.reshape(1), b.reshape(1)) if a.ndim == 0 else (a, b)
    cosine = (directions(x, 0)[0] * directions(y, 0)[0]).sum(0)
    return cosine.reshape(()) if a.ndim == 0 else cosine


def _add_cosine(a: Tensor, b: Tensor, cosine: Tensor, alpha: float) -> Tensor:
    share = 1 - (cosine.clamp(-1, 1) - alpha).clamp_(0, 1)
    return a.lerp(b, share.expand_as(a))
