"""Order and frequency: models taken apart by the rank of their numbers or by their Fourier transform.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. All are
defined and finite for zero, constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical
models. A transform is linear, so it is taken of B - A and what passes the filter is added to A.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.orders import stable_order
from bayes_merger.merging.methods.vectors import plus
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:
    from torch import Tensor

_UNIT = (0.0, 1.0)


def _rearranged(a: Tensor, b: Tensor) -> Prepared:
    """A's numbers in the order of B's, and A's sizes sorted."""
    flat = a.reshape(-1)
    rearranged = flat.new_empty(flat.shape)
    rearranged[stable_order(b.reshape(1, -1))[0]] = flat[stable_order(flat.reshape(1, -1))[0]]
    return rearranged, flat.abs().sort().values


@merge_method(bounds={"alpha": _UNIT, "beta": _UNIT}, prepare=_rearranged, cost=Cost(185, 9), aliases=("top_k",))
def top_k_tensor_sum(
    a: Tensor, b: Tensor, *, alpha: float = 0.5, beta: float = 0.0, prepared: Prepared | None = None
) -> Tensor:
    """A's own numbers rearranged into the order of B's, where they lie in a window of sizes.

    The window holds the ranks `[n beta, n (alpha + beta))`, rounded, of A's n numbers by size; past the end it wraps
    around. Numbers of equal size are in or out together. Of B only the order is used: at 1 the result has A's numbers
    and B's ranks; exactly A at 0. Source: sd-meh (sd-mecha includes the lower end).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: width of the window, share of numbers in [0, 1].
        beta: where it begins, in [0, 1].
        prepared: A's numbers in B's order, and A's sizes sorted; if already computed.
    """
    count = a.numel()
    if count == 0:
        return a.clone()
    flat = a.reshape(-1)
    rearranged, sizes = prepared or _rearranged(a, b)
    wraps = alpha + beta > 1
    ends = (alpha + beta - 1, beta) if wraps else (beta, alpha + beta)
    low, high = (round(count * end) for end in ends)
    inside = (rearranged.abs() <= sizes[high - 1]) if high > 0 else rearranged != rearranged
    if low > 0:
        inside &= rearranged.abs() > sizes[low - 1]
    chosen: Tensor = rearranged.where(inside != wraps, flat)
    return chosen.reshape(a.shape)


def _ordered_spectrum(a: Tensor, b: Tensor, c: Tensor) -> Prepared:
    """The order of C's numbers, and the transform of B - A in that order."""
    import torch

    order = stable_order(c.reshape(1, -1))[0]
    return order, torch.fft.rfft((b - a).reshape(-1)[order]) if a.numel() else None


@merge_method(bounds={"alpha": _UNIT, "beta": _UNIT}, prepare=_ordered_spectrum, cost=Cost(145, 26))
def distribution_crossover(
    a: Tensor, b: Tensor, c: Tensor, *, alpha: float = 0.5, beta: float = 0.0, prepared: Prepared | None = None
) -> Tensor:
    """A's low and B's high frequencies, of the numbers in the order of C's: `f = (i / n - (1 - alpha)) / beta + 1/2`.

    B's share of frequency i of n is f, clamped to [0, 1]; at beta = 0 it jumps from 0 to 1. Exactly A at alpha = 0 and
    exactly B at 1. A 0-d tensor is a weighted sum. Source: sd-meh, whose alpha runs the other way (0 is B).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``; its order defines which numbers are neighbours.
        alpha: share of frequencies taken from B, the highest first, in [0, 1].
        beta: width of the transition from A to B, share of all frequencies, in [0, 1].
        prepared: the order and the transform, if already computed.
    """
    import torch

    if alpha in (0, 1) or a.numel() == 0:
        return (b if alpha else a).clone()
    if a.ndim == 0:
        return a.lerp(b, alpha)
    order, spectrum = prepared or _ordered_spectrum(a, b, c)
    frequency = torch.arange(spectrum.numel(), device=a.device, dtype=a.dtype).div_(spectrum.numel())
    cut = 1 - alpha
    share = (frequency - cut).div_(beta).add_(0.5).clamp_(0, 1) if beta > 1e-10 else (frequency >= cut).to(a.dtype)
    step = torch.empty_like(a).reshape(-1)
    step[order] = torch.fft.irfft(spectrum * share, n=a.numel())
    return a + step.reshape(a.shape)


def _spectrum(a: Tensor, b: Tensor) -> Prepared:
    """The transform of B - A over all dimensions."""
    import torch

    return (torch.fft.rfftn(b - a) if a.ndim and a.numel() else None,)


@merge_method(bounds={"alpha": _UNIT, "tilt": _UNIT}, prepare=_spectrum, cost=Cost(46, 7.4))
def crossover(
    a: Tensor, b: Tensor, *, alpha: float = 0.5, tilt: float = 0.0, prepared: Prepared | None = None
) -> Tensor:
    """A's low and B's high frequencies over all dimensions: B's share is 1 where the radius is above `1 - alpha`.

    The radius is the root mean square of the frequencies of all dimensions, each from 0 to 1. Tilt turns the cut into a
    ramp, `(r + alpha - 1) cot(pi tilt / 2) + alpha` clamped to [0, 1], and at 1 into the weighted sum. Exactly A at
    alpha = 0 and exactly B at 1; a 0-d tensor is a weighted sum. Source: sd-mecha (tilts above 1, which swap the bands,
    jump at alpha = 0 and are refused here).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: how much of the spectrum is B's, the highest frequencies first, in [0, 1].
        tilt: 0 a sharp cut, 1 none, in [0, 1].
        prepared: the transform, if already computed.
    """
    import torch

    if alpha in (0, 1) or a.numel() == 0:
        return (b if alpha else a).clone()
    if a.ndim == 0 or tilt == 1:
        return a.lerp(b, alpha)
    (spectrum,) = prepared or _spectrum(a, b)
    radius = _radius(a)
    if tilt < 1e-10:
        share = (radius > 1 - alpha).to(a.dtype)
    else:
        share = radius.add_(alpha - 1).mul_(1 / math.tan(math.pi * tilt / 2)).add_(alpha).clamp_(0, 1)
    step: Tensor = torch.fft.irfftn(spectrum * share, s=a.shape)
    return a + step


def _radius(a: Tensor) -> Tensor:
    """Frequency of each entry of ``a``'s real transform, 0 to 1: root mean square over the dimensions."""
    import torch

    total: Tensor = a.new_zeros(())
    for dim, size in enumerate(a.shape):
        places = torch.arange(size if dim < a.ndim - 1 else size // 2 + 1, device=a.device, dtype=a.dtype)
        frequency = places.minimum(size - places).div_(max(size // 2, 1))
        total = total + frequency.square_().reshape(-1, *(1,) * (a.ndim - 1 - dim))
    return (total / a.ndim).sqrt()


def _smoothed(a: Tensor, b: Tensor, c: Tensor, *, over: str = "taps") -> Prepared:
    """B - C, smoothed."""
    import torch
    from scipy import ndimage

    delta = b - c
    first = 2 if over == "taps" else 0
    wide = [dim >= first and a.shape[dim] > 1 for dim in range(a.ndim)]
    if not any(wide) or a.numel() == 0:
        return (delta,)
    median = ndimage.median_filter(delta.cpu().numpy(), size=[3 if side else 1 for side in wide])
    smooth = ndimage.gaussian_filter(median, sigma=[1.0 if side else 0.0 for side in wide])
    return (torch.from_numpy(smooth).to(delta),)


@merge_method(
    elementwise=True,
    adds_difference=True,
    prepare=_smoothed,
    read=("a",),
    choices={"over": ("taps", "all")},
    cost=Cost(44, 6.1),
    aliases=("smoothAdd", "smoothAdd MT"),
)
def smooth_add(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    alpha: Weight = 1.0,
    over: str = "taps",
    prepared: Prepared | None = None,
) -> Tensor:
    """`A + alpha G(M(B - C))`, M the median of three neighbours and G a Gaussian of one place, in each dimension.

    Neighbours are the taps of a convolution; for all other tensors this is add_difference. With ``over="all"``
    they are also neighbouring channels, as in supermerger, though the order of channels means nothing and the medians
    of 81 numbers take hours for a model. At the edges numbers are mirrored. Source: supermerger's smoothAdd.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of B.
        alpha: how much of the smoothed difference; any number, A at 0.
        over: ``taps`` or ``all`` dimensions.
        prepared: the smoothed difference, if already computed.
    """
    (step,) = prepared or _smoothed(a, b, c, over=over)
    return plus(a, step, alpha)
