"""Weights as matrices: rotations of one model onto another, and differences of low rank.

A tensor is a matrix of one row per output, ``(outputs, all that feeds one of them)``. Every function takes tensors of
one shape and dtype and returns a new one; the engine calls them on fp32. All are defined and finite for zero,
constant, identical and opposite inputs, 0-d, 1-d and empty tensors, and give A for identical models. Decompositions are
made in fp64: they cost seconds for a large matrix, minutes for a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_merger.merging.method import Weight, merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(elementwise=False)
def rotate(a: Tensor, b: Tensor, *, alpha: Weight = 0.5) -> Tensor:
    """`(1 - alpha) (A - mean A) Q + alpha (B - mean B) + mean B`, Q the rotation that brings A's rows nearest to B's.

    Q is orthogonal and solves `min |(A - mean A) Q - (B - mean B)|` (Procrustes), the means are of all rows. At 0 the
    result has A's singular values and B's directions, exactly B at 1. Convolutions wider than 1x1 are rotated in the
    space of their taps, one row per pair of channels. 0-d and 1-d tensors are weighted sums. Where Q is not unique
    (one of the models is constant over rows) A is not rotated. Source: sd-mecha's rotate at alignment 1,
    https://en.wikipedia.org/wiki/Orthogonal_Procrustes_problem.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: share of B; any number.
    """
    import torch

    if alpha == 1 or torch.equal(a, b):
        return b.clone()
    if a.ndim < 2 or a.numel() == 0:
        return a.lerp(b, alpha)
    taps = a.ndim == 4 and a.shape[2] * a.shape[3] > 1
    shape = (a.shape[0] * a.shape[1], -1) if taps else (a.shape[0], -1)
    x, y = a.reshape(shape).double(), b.reshape(shape).double()
    mean = y.mean(0)
    x, y = x - x.mean(0), y - mean
    return _turned(x, y).lerp_(y, alpha).add_(mean).reshape(a.shape).to(a.dtype)


def _turned(x: Tensor, y: Tensor) -> Tensor:
    """``x Q`` with the orthogonal Q that brings the rows of ``x`` nearest to those of ``y``."""
    import torch

    seen = x
    if x.shape[0] < x.shape[1]:  # only the space that the rows of x span is turned, wherever the rest goes
        basis, _ = torch.linalg.qr(x.mT)
        seen = x @ basis
    cross = seen.mT @ y
    if not bool(cross.any()):
        return x.clone()
    u, _, vh = torch.linalg.svd(cross, full_matrices=False)
    turned: Tensor = seen @ (u @ vh)
    return turned


@merge_method(elementwise=False, bounds={"rank": (0.0, 1.0)}, aliases=("low_rank",))
def truncate_rank(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0, rank: Weight = 0.25) -> Tensor:
    """`A + alpha R`, R the matrix of low rank that is nearest to B - C: what a LoRA of that rank would keep of it.

    The rank is the share of the smaller side of the matrix, rounded; at 0 nothing is added, at 1 it is add_difference,
    which it also is for 0-d and 1-d tensors. Source: Eckart and Young, doi.org/10.1007/BF02288367, as in sd-mecha
    (whose approximate basis is random; ours is exact).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of the difference; any number, A at 0.
        rank: share of the full rank that is kept, in [0, 1].
    """
    delta = b - c
    if a.ndim < 2 or a.numel() == 0:
        return a.add(delta, alpha=alpha)
    return a.add(_of_rank(delta.reshape(a.shape[0], -1), rank).reshape(a.shape), alpha=alpha)


def _of_rank(matrix: Tensor, share: float) -> Tensor:
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        return _of_rank(matrix.mT, share).mT
    full = matrix.shape[0]
    kept = round(share * full)
    largest = matrix.abs().max()
    if kept in (0, full) or largest == 0:
        return matrix if kept else matrix.new_zeros(matrix.shape)
    scaled = (matrix / largest).double()
    top = torch.linalg.eigh(scaled @ scaled.mT).eigenvectors[:, full - kept :]  # ascending
    kept_part: Tensor = top @ (top.mT @ scaled)
    return kept_part.to(matrix.dtype) * largest
