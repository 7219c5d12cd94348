"""Directions: models as vectors, their lengths and the angles between them.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. Lengths are
taken of tensors brought to size one, so that neither tiny nor huge numbers are lost in squares. All are defined and
finite for zero, constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.vectors import lengths_and_angles, plus, products, sizes, sum_of, times
from bayes_merger.merging.parameters import Cost, Prepared, Weight

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
    """Euclidean length, with the exact sum that torch's own norm lacks: its 4th digit is wrong at 10^7 numbers."""
    squares = x.square()
    return x.new_tensor(math.sqrt(sum_of(squares))) if dim is None else squares.sum(dim, keepdim=True).sqrt_()


def angle(u: Tensor, v: Tensor, dim: int | None = None) -> Tensor:
    """Angle between unit vectors in radians, `2 atan2(|u - v|, |u + v|)`: exact also near 0 and pi, unlike acos.

    See W. Kahan, "How futile are mindless assessments of roundoff", section 12.
    """
    return _length(u - v, dim).atan2(_length(u + v, dim)).mul_(2)


def _plane(a: Tensor, b: Tensor, c: Tensor | None = None) -> Prepared:
    """Lengths of A and B (or of their differences to C), and the angle between them."""
    (length_a, length_b), angles = lengths_and_angles((a, b), c)
    return length_a, length_b, angles[0][1]


def _mix(a: Tensor, b: Tensor, c: Tensor | None, share_a: float, share_b: float) -> Tensor:
    """`share_a A + share_b B`, of the differences to C where that is given."""
    if c is None:
        return times(a, share_a).add_(times(b, share_b))
    return times(a - c, share_a).add_(times(b - c, share_b)).add_(c)


@merge_method(elementwise=True, prepare=_plane, cost=Cost(4, 2.5))
def slerp(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 0.5, prepared: Prepared | None = None
) -> Tensor:
    """`(sin((1 - alpha) w) u + sin(alpha w) v) / sin(w)` times `(1 - alpha) |A| + alpha |B|`: along the arc.

    `u` and `v` are A and B at length one and `w` the angle between them, of the tensor as one vector. Exactly A at 0
    and exactly B at 1. The weighted sum where there is no arc: a zero tensor, or directions less than 1e-6 rad apart or
    from opposite (where the path leads through zero). Source: https://dl.acm.org/doi/10.1145/325165.325242; the length
    is interpolated separately, as in sd-mecha.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``: if given, the differences to it are interpolated.
        alpha: how far from A to B; outside [0, 1] it goes on along the circle.
        prepared: lengths and angle, where they are known.
    """
    if alpha in (0, 1):
        return (b if alpha else a).clone()
    size_a, size_b, arc = prepared or _plane(a, b, c)
    if _is_flat(size_a, size_b, arc):
        return a.lerp(b, alpha)
    length = ((1 - alpha) * size_a + alpha * size_b) / math.sin(arc)
    share_a, share_b = math.sin((1 - alpha) * arc) * length / size_a, math.sin(alpha * arc) * length / size_b
    return _mix(a, b, c, share_a, share_b)


def _is_flat(size_a: float, size_b: float, arc: float) -> bool:
    """Whether two vectors span no plane, so that there is no arc between them."""
    return size_a == 0 or size_b == 0 or not _NO_ANGLE < arc < math.pi - _NO_ANGLE


def _row_planes(a: Tensor, b: Tensor, c: Tensor | None = None, *, vectors: str = "tensor") -> Prepared:
    """As ``_plane``, or, row by row, the angle and whether the rows span no plane."""
    if vectors == "tensor" or a.ndim < 2 or a.numel() == 0:
        return _plane(a, b, c)
    x, y = (model.reshape(a.shape[0], -1) for model in ((a, b) if c is None else (a - c, b - c)))
    (u, length_a), (v, length_b) = directions(x, 1), directions(y, 1)
    arc = angle(u, v, 1).double()
    flat = (length_a == 0) | (length_b == 0) | (arc < _NO_ANGLE) | (arc > math.pi - _NO_ANGLE)
    return arc.masked_fill_(flat, 1.0), flat


@merge_method(choices={"vectors": ("tensor", "rows")}, prepare=_row_planes, cost=Cost(8, 4.5))
def nuslerp(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 0.5,
    vectors: str = "tensor",
    prepared: Prepared | None = None,
) -> Tensor:
    """`(sin((1 - alpha) w) A + sin(alpha w) B) / sin(w)`: slerp's shares of A and B, without interpolating lengths.

    Exactly A at 0 and exactly B at 1. The weighted sum where the angle `w` is less than 1e-6 rad from 0 or pi, or one
    vector is zero. Source: mergekit's nuslerp (its rows are along the last dimension, three numbers of a 3x3
    convolution; ours are all numbers that feed one output).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``: if given, the differences to it are interpolated.
        alpha: how far from A to B; outside [0, 1] it goes on along the circle.
        vectors: ``tensor`` takes it as one vector, ``rows`` gives each output its own angle.
        prepared: lengths and angles, where they are known.
    """
    if alpha in (0, 1) or a.numel() == 0:
        return (b if alpha else a).clone()
    known = prepared or _row_planes(a, b, c, vectors=vectors)
    if len(known) == 3:
        size_a, size_b, arc = known
        if _is_flat(size_a, size_b, arc):
            return a.lerp(b, alpha)
        return _mix(a, b, c, math.sin((1 - alpha) * arc) / math.sin(arc), math.sin(alpha * arc) / math.sin(arc))
    arcs, flat = known
    x, y = (model.reshape(a.shape[0], -1) for model in ((a, b) if c is None else (a - c, b - c)))
    sine = arcs.sin()
    share_a, share_b = (((1 - alpha) * arcs).sin() / sine).float(), ((alpha * arcs).sin() / sine).float()
    mixed: Tensor = (x * share_a).add_(y * share_b).where(~flat, x.lerp(y, alpha)).reshape(a.shape)
    return mixed if c is None else mixed.add_(c)


def perpendicular_component(a: Tensor, b: Tensor) -> Tensor:
    """`b - a <a, b> / |a|^2`: the part of ``b`` that is at a right angle to ``a``; ``b`` itself where ``a`` is zero.

    Args:
        a: Tensor of any shape, one vector.
        b: Tensor like ``a``.
    """
    return _perpendicular(a, b, _projection(a, b))


def _projection(a: Tensor, b: Tensor, c: Tensor | None = None) -> Prepared:
    """Size of A, and B's coordinate along A at size one; of the differences to C where that is given."""
    size_a, size_b = sizes((a, b), c)
    squares = products((a, b), (size_a, size_b), c)
    return size_a, squares[0][1] / squares[0][0] * size_b if size_a else 0.0


def _perpendicular(a: Tensor, b: Tensor, projection: Prepared) -> Tensor:
    size, along = projection
    return b.sub(a.div(size), alpha=along) if size else b.clone()


@merge_method(
    elementwise=True, prepare=_projection, cost=Cost(6, 3.6), aliases=("perpendicular", "perpendicular_component")
)
def add_perpendicular(
    a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0, prepared: Prepared | None = None
) -> Tensor:
    """`A + alpha P`, with P the part of B - C that is perpendicular to A - C: only what B learned and A did not.

    Where A did not move from C all of B - C is added (sd-mecha's add_perpendicular adds nothing there).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: how much of it; any number, A at 0.
        prepared: what B - C has in common with A - C, where it is known.
    """
    return plus(a, _perpendicular(a - c, b - c, prepared or _projection(a, b, c)), alpha)


def _column_cosines(a: Tensor, b: Tensor) -> Prepared:
    return (column_cosine(a, b),)


def _mean_cosines(a: Tensor, b: Tensor) -> Prepared:
    return ((column_cosine(a, b) + whole_cosine(a, b)) / 2,)


def whole_cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors as vectors; 0 where one is zero."""
    scales = sizes((a, b))
    table = products((a, b), scales)
    return table[0][1] / math.sqrt(table[0][0] * table[1][1]) if all(scales) else 0.0


@merge_method(between=True, prepare=_column_cosines, cost=Cost(17, 5.2))
def add_cosine_a(a: Tensor, b: Tensor, *, alpha: Weight = 1.0, prepared: Prepared | None = None) -> Tensor:
    """`(1 - k) A + k B` with `k = 1 - clamp(s - alpha, 0, 1)`, `s` the cosine of A and B along the first dimension.

    Where they are similar A is kept, where they differ B is taken, and alpha pushes all towards B: exactly B at 1; at 0
    it is A only where both point the same way. A zero vector has cosine 0 with anything. 0-d and 1-d tensors have one
    cosine. Source: sd-mecha; supermerger's cosineA without its statistics of the whole model.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: what is taken off the cosine.
        prepared: the cosines, where they are known.
    """
    return _add_cosine(a, b, prepared or _column_cosines(a, b), alpha)


@merge_method(between=True, prepare=_mean_cosines, cost=Cost(17, 5.2))
def add_cosine_b(a: Tensor, b: Tensor, *, alpha: Weight = 1.0, prepared: Prepared | None = None) -> Tensor:
    """`(1 - k) A + k B` as in add_cosine_a, with `s` the mean of that cosine and the cosine of the whole tensors.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: what is taken off the cosine; exactly B at 1.
        prepared: the cosines, where they are known.
    """
    return _add_cosine(a, b, prepared or _mean_cosines(a, b), alpha)


def column_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the first dimension: one for each place in the others; 0 where one of the two is zero."""
    x, y = (a.reshape(1), b.reshape(1)) if a.ndim == 0 else (a, b)
    cosine = (directions(x, 0)[0] * directions(y, 0)[0]).sum(0)
    return cosine.reshape(()) if a.ndim == 0 else cosine


def _add_cosine(a: Tensor, b: Tensor, cosines: Prepared, alpha: Weight) -> Tensor:
    (cosine,) = cosines
    share = 1 - (cosine.clamp(-1, 1) - alpha).clamp_(0, 1)
    return a.lerp(b, share.expand_as(a))
