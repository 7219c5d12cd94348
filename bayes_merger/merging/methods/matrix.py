"""Weights as matrices: rotations of one model onto another, and differences of low rank.

A tensor is a matrix with one row per output: shape ``(outputs, inputs of one output)``. Every function takes tensors of
one shape and dtype and returns a new one; the engine calls them on fp32. All are defined and finite for zero,
constant, identical and opposite inputs, 0-d, 1-d and empty tensors, and give A for identical models. Decompositions are
made in fp64: they cost seconds for a large matrix, minutes for a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.vectors import plus
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:
    from torch import Tensor


def _rotated_onto(a: Tensor, b: Tensor) -> Prepared:
    """A rotated onto B, with B's mean."""
    import torch

    if a.ndim < 2 or a.numel() == 0 or torch.equal(a, b):
        return (a.clone(),)
    taps = a.ndim == 4 and a.shape[2] * a.shape[3] > 1
    shape = (a.shape[0] * a.shape[1], -1) if taps else (a.shape[0], -1)
    x, y = a.reshape(shape).double(), b.reshape(shape).double()
    mean = y.mean(0)
    return (_nearest_rotation(x - x.mean(0), y - mean).add_(mean).reshape(a.shape).to(a.dtype),)


@merge_method(elementwise=True, prepare=_rotated_onto, read=("b",), cost=Cost(20, 12, decomposes=True))
def rotate(a: Tensor, b: Tensor, *, alpha: Weight = 0.5, prepared: Prepared | None = None) -> Tensor:
    """`(1 - alpha) ((A - mean A) Q + mean B) + alpha B`, Q the rotation that brings A's rows nearest to B's.

    Q is orthogonal and solves `min |(A - mean A) Q - (B - mean B)|` (Procrustes), the means are taken over rows. At 0
    the result has A's singular values and B's directions, exactly B at 1. Convolutions wider than 1x1 are rotated in
    the space of their taps, one row per pair of channels. 0-d and 1-d tensors are weighted sums. Where Q is not unique
    (one of the models is constant over rows) A is not rotated. Source: sd-mecha's rotate at alignment 1,
    https://en.wikipedia.org/wiki/Orthogonal_Procrustes_problem.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: share of B; any number.
        prepared: the rotated A, if already computed.
    """
    (rotated,) = prepared or _rotated_onto(a, b)
    mixed: Tensor = rotated.lerp(b, alpha)
    return mixed


def _nearest_rotation(x: Tensor, y: Tensor) -> Tensor:
    """``x Q`` with the orthogonal Q that brings the rows of ``x`` nearest to those of ``y``."""
    import torch

    reduced = x
    if x.shape[0] < x.shape[1]:  # rotate within the row space of x; the rest has no effect
        basis, _ = torch.linalg.qr(x.mT)
        reduced = x @ basis
    cross = reduced.mT @ y
    if not bool(cross.any()):
        return x.clone()
    u, _, vh = torch.linalg.svd(cross, full_matrices=False)
    rotated: Tensor = reduced @ (u @ vh)
    return rotated


def _directions(a: Tensor, b: Tensor, c: Tensor) -> Prepared:
    """Eigenvectors of the difference's smaller side in fp64, the most important last; None for 0-d and 1-d."""
    import torch

    if a.ndim < 2 or a.numel() == 0:
        return (None,)
    matrix = _wide_matrix(b - c)
    largest = matrix.abs().max()
    if largest == 0:
        return (None,)
    scaled = (matrix / largest).double()
    return (torch.linalg.eigh(scaled @ scaled.mT).eigenvectors,)


def _wide_matrix(delta: Tensor) -> Tensor:
    """One row per output, or its transpose, whichever has fewer rows."""
    matrix = delta.reshape(delta.shape[0], -1)
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


@merge_method(
    adds_difference=True,
    bounds={"rank": (0.0, 1.0)},
    prepare=_directions,
    cost=Cost(20, 7, decomposes=True),
    aliases=("low_rank",),
)
def truncate_rank(
    a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0, rank: float = 0.25, prepared: Prepared | None = None
) -> Tensor:
    """`A + alpha R`, R the nearest matrix of low rank to B - C: what a LoRA of that rank could hold.

    The rank is a share of the smaller side of the matrix, rounded; at 0 nothing is added, at 1 it is add_difference,
    which it also is for 0-d and 1-d tensors. Source: Eckart and Young, doi.org/10.1007/BF02288367, as in sd-mecha
    (whose approximate basis is random; ours is exact).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of the difference; any number, A at 0.
        rank: share of the full rank that is kept, in [0, 1].
        prepared: the eigenvectors of the difference, if already computed.
    """
    (basis,) = prepared or _directions(a, b, c)
    delta = b - c
    if basis is None:
        return plus(a, delta, alpha)
    full = basis.shape[0]
    kept = round(rank * full)
    if kept in (0, full):
        return plus(a, delta, alpha) if kept else a.clone()
    matrix = _wide_matrix(delta)
    top = basis[:, full - kept :]
    part = (top @ (top.mT @ matrix.double())).to(a.dtype)
    turned = part if part.shape == delta.reshape(delta.shape[0], -1).shape else part.mT
    return plus(a, turned.reshape(a.shape), alpha)
