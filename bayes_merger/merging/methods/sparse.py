"""Differences to a base model of which only a part is kept: the largest, the agreed on, or a random choice.

Every function takes fine-tuned models and their base C, tensors of one shape and dtype, and returns a new one; the
engine calls them on fp32. All are defined and finite for zero, constant, identical and opposite inputs, 0-d and empty
tensors, and give exactly C where nobody has moved from it (hence A for identical models).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bayes_merger.merging.method import Weight, merge_method

if TYPE_CHECKING:
    from torch import Generator, Tensor

_SHARE = (0.0, 1.0)


def kept_count(share: float, count: int) -> int:
    """How many of ``count`` numbers a share in [0, 1] of them is, rounded down, but one at least if it is above 0."""
    return 0 if share <= 0 else min(max(int(share * count + 1e-9 * count), 1), count)


def order_statistic(sizes: Tensor, rank: int) -> Tensor:
    """The number at place ``rank`` (from 0) of the sorted ``sizes``, as a 0-d tensor."""
    flat = sizes.reshape(-1)
    if flat.device.type != "cpu":
        return flat.kthvalue(rank + 1).values
    import numpy as np

    return flat.new_tensor(np.partition(flat.numpy(), rank)[rank])  # four times faster than torch's kthvalue


def stable_order(rows: Tensor) -> Tensor:
    """The places of each row's numbers from the smallest up, of equal ones the first: torch's stable ``argsort``.

    Args:
        rows: Tensor ``(rows, numbers)`` in fp32.
    """
    import torch

    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows.argsort(dim=1, stable=True)
    import numpy as np

    # Number and place packed into one integer: numpy sorts those ten times faster than torch sorts either.
    bits = rows.add(0.0).numpy().view(np.int32)  # -0 becomes 0
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64) << 32
    keys |= np.arange(rows.shape[1])
    keys.sort(axis=1)
    return torch.from_numpy(keys & 0xFFFFFFFF)


def keep_largest(delta: Tensor, share: float) -> Tensor:
    """``delta`` with all but a share of its numbers, the largest in size, set to zero; numbers that tie are kept."""
    count = kept_count(share, delta.numel())
    if count in (0, delta.numel()):
        return delta.clone() if count else delta.new_zeros(delta.shape)
    sizes = delta.abs()
    return delta.masked_fill(sizes < order_statistic(sizes, delta.numel() - count), 0.0)


def agreeing_mean(deltas: Sequence[Tensor], vote: str = "sum") -> Tensor:
    """Mean of those numbers, place by place, that have the elected sign; zeros have none and do not count.

    Args:
        deltas: Tensors of one shape.
        vote: ``sum`` elects the sign of the sum, ``count`` that of the majority; in a tie nothing is kept.
    """
    ballots = deltas if vote == "sum" else [delta.sign() for delta in deltas]
    sign = _sum(ballots).sign_()
    total, count = sign.new_zeros(sign.shape), sign.new_zeros(sign.shape)
    for delta in deltas:
        agrees = (delta.sign() == sign) & (sign != 0)
        total.add_(delta.masked_fill(~agrees, 0.0))
        count.add_(agrees)
    return total.div_(count.clamp_(min=1))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


def ties_sum(*deltas: Tensor, density: float = 0.2, vote: str = "sum") -> Tensor:
    """TIES of differences: trim each to its largest numbers, elect a sign, average what agrees with it.

    Args:
        deltas: Tensors of one shape.
        density: share of numbers kept in each, in [0, 1].
        vote: as in ``agreeing_mean``.
    """
    return agreeing_mean([keep_largest(delta, density) for delta in deltas], vote)


@merge_method(
    elementwise=False,
    bounds={"density": _SHARE},
    choices={"vote": ("sum", "count")},
    aliases=("ties_add_difference", "ties_sum"),
)
def ties(
    a: Tensor, b: Tensor, c: Tensor, *more: Tensor, alpha: Weight = 1.0, density: Weight = 0.2, vote: str = "sum"
) -> Tensor:
    """`C + alpha TIES(A - C, B - C)`: trimmed to the largest numbers, elected a sign, averaged where they agree.

    The sign is that of the sum of the trimmed differences, as in the paper, https://arxiv.org/abs/2306.01708;
    ``vote="count"`` elects the sign that most models have, as in sd-meh, where two that disagree cancel out. Numbers
    that tie with the smallest one kept are kept too. At density 0 nothing is kept (C), at 1 nothing is trimmed.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0.
        density: share of numbers that each difference keeps, in [0, 1].
        vote: ``sum`` or ``count``.
    """
    return c.add(ties_sum(*(model - c for model in (a, b, *more)), density=density, vote=vote), alpha=alpha)


def generator_for(seed: int, key: str, number: int) -> Generator:
    """A generator on the CPU that draws the same for a seed, tensor and model wherever and whenever it is asked."""
    import torch

    digest = hashlib.sha256(f"{seed}:{number}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _draw(like: Tensor, seed: int, key: str, number: int) -> Tensor:
    """Uniform numbers in [0, 1) of ``like``'s shape, drawn on the CPU."""
    import torch

    drawn = torch.rand(like.shape, generator=generator_for(seed, key, number), dtype=torch.float32)
    return drawn.to(like.device)


_COMBINE = ("mean", "elect", "active")


def _combined(deltas: Sequence[Tensor], how: str) -> Tensor:
    """One difference out of several: their mean, TIES's election, or the mean of those that are not zero."""
    if how == "elect":
        return agreeing_mean(deltas)
    if how == "mean":
        return _sum(deltas).div_(len(deltas))
    return _sum(deltas).div_(_sum([(delta != 0).to(delta.dtype) for delta in deltas]).clamp_(min=1))


@merge_method(
    elementwise=False,
    search={"probability": (0.0, 0.95)},
    bounds={"probability": _SHARE},
    choices={"combine": _COMBINE},
    aliases=("dare", "dare_linear", "n_supermario"),
)
def dropout(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    probability: Weight = 0.5,
    combine: str = "mean",
    seed: int = 0,
    key: str = "",
) -> Tensor:
    """DARE: `C + alpha mean_i(m_i (X_i - C) / (1 - p))`: each number dropped with probability p, the rest enlarged.

    On average it is `C + alpha mean_i(X_i - C)`; at p = 1 nothing is left (C). Source: https://arxiv.org/abs/2311.03099.
    ``combine="elect"`` elects signs as TIES does (mergekit's dare_ties without trimming); ``"active"`` averages at each
    place over the models that were not dropped there (sd-mecha's dropout, up to 1 / n as much).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0. (Their sum: the number of models.)
        probability: of being dropped, in [0, 1]; the numbers that stay grow with 1 / (1 - p).
        combine: ``mean``, ``elect`` or ``active``.
        seed: of the draws, which are made anew for each tensor.
        key: which tensor it is.
    """
    if probability >= 1:
        return c.clone()
    deltas = []
    for number, model in enumerate((a, b, *more)):
        dropped = _draw(model, seed, key, number) < probability
        deltas.append((model - c).masked_fill_(dropped, 0.0))
    return c.add(_combined(deltas, combine), alpha=alpha / (1 - probability))


@merge_method(
    elementwise=False,
    search={"probability": (0.0, 0.9), "window": (0.0, 0.2)},
    bounds={"probability": _SHARE, "window": _SHARE},
    choices={"ranks": ("rows", "tensor"), "combine": ("elect", "mean", "active")},
)
def della(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    probability: Weight = 0.5,
    window: Weight = 0.1,
    ranks: str = "rows",
    combine: str = "elect",
    seed: int = 0,
    key: str = "",
) -> Tensor:
    """DELLA: as dropout, but small numbers are dropped rather than large ones, and then signs are elected.

    The number of rank r (0 the largest) of the n in a row is dropped with `p_r = p + window ((r + 1/2) / n - 1/2)`,
    clamped to [0, 1], and enlarged by `1 / (1 - p_r)` if it stays. Window 0 is dropout. Source:
    https://arxiv.org/abs/2406.11617; sd-mecha ranks whole tensors (``ranks="tensor"``) and enlarges all alike, mergekit
    takes a window twice as wide.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0.
        probability: of being dropped, on average, in [0, 1].
        window: difference of the probabilities of the smallest and the largest number, in [0, 1].
        ranks: ``rows`` ranks the numbers that feed one output, ``tensor`` all of them.
        combine: ``elect``, ``mean`` or ``active``, as in dropout.
        seed: of the draws, which are made anew for each tensor.
        key: which tensor it is.
    """
    if a.numel() == 0:
        return c.clone()
    rows = (a.shape[0], -1) if ranks == "rows" and a.ndim > 1 else (1, -1)
    deltas = []
    for number, model in enumerate((a, b, *more)):
        delta = (model - c).reshape(rows)
        chance = _ranks(delta).add_(0.5).div_(delta.shape[1]).sub_(0.5).mul_(window).add_(probability).clamp_(0, 1)
        dropped = _draw(model, seed, key, number).reshape(rows) < chance
        deltas.append(delta.div_(1 - chance).masked_fill_(dropped | (chance >= 1), 0.0).reshape(c.shape))
    return c.add(_combined(deltas, combine), alpha=alpha)


def _ranks(delta: Tensor) -> Tensor:
    """Place of each number in its row, the largest in size first; of equal ones the first."""
    import torch

    order = stable_order(delta.abs().neg_())
    places = torch.arange(delta.shape[1], dtype=delta.dtype, device=delta.device)
    return torch.empty_like(delta).scatter_(1, order, places.expand_as(delta))


@merge_method(
    elementwise=False,
    search={"outliers": (0.0, 0.1)},
    bounds={"density": _SHARE, "outliers": _SHARE},
    choices={"combine": ("mean", "elect")},
)
def breadcrumbs(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    density: Weight = 0.8,
    outliers: Weight = 0.01,
    combine: str = "mean",
) -> Tensor:
    """`C + alpha mean_i(m_i (X_i - C))`: each difference without its largest and its smallest numbers.

    Of n numbers the `outliers n` largest go first (rounded down: none of a short tensor), then the smallest until
    `density n` are left; the outliers stay where fewer would be left. Ties are kept. Source:
    https://arxiv.org/abs/2312.06795; ``combine="elect"`` elects signs as TIES does (mergekit's breadcrumbs_ties).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0. (Their sum: the number of models.)
        density: share of numbers that each difference keeps, in [0, 1]; 0 keeps none.
        outliers: share of the largest that go, in [0, 1].
        combine: ``mean`` or ``elect``.
    """
    deltas = [_without_tails(model - c, density, outliers) for model in (a, b, *more)]
    return c.add(_combined(deltas, combine), alpha=alpha)


def _without_tails(delta: Tensor, density: float, outliers: float) -> Tensor:
    total = delta.numel()
    count = kept_count(density, total)
    if count == 0:
        return delta.new_zeros(delta.shape)
    low = max(total - count - int(outliers * total + 1e-9 * total), 0)
    sizes = delta.abs()
    if low > 0:
        delta = delta.masked_fill(sizes < order_statistic(sizes, low), 0.0)
    if low + count < total:
        delta = delta.masked_fill(sizes > order_statistic(sizes, low + count - 1), 0.0)
    return delta


@merge_method(elementwise=False, bounds={"density": _SHARE})
def sce(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, alpha: Weight = 1.0, density: Weight = 1.0) -> Tensor:
    """`C + alpha sum_i(w_i m_i d_i) / sum_i(w_i m_i)` with `w_i = sum(d_i^2)`: select, calculate, erase.

    Of the differences `d_i = X_i - C` only the places are kept where they vary most between models, `m_i` are those of
    the sign of their sum (none in a tie), and models that moved further count more, whatever the scale (mergekit takes
    equal weights where the mean square is below 1e-6, as in all fine-tuned diffusion models). Source:
    https://arxiv.org/abs/2408.07990.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0.
        density: share of places kept, of those where models differ; 1 keeps all places.
    """
    deltas = [model - c for model in (a, b, *more)]
    if density < 1 and a.numel():
        deltas = _most_varied(deltas, density)
    weights = _squares(deltas)
    sign = _sum(deltas).sign_()
    total, shares = sign.new_zeros(sign.shape), sign.new_zeros(sign.shape)
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = ((delta.sign() == sign) & (sign != 0)).to(delta.dtype)
        total.add_(delta * agrees, alpha=weight)
        shares.add_(agrees, alpha=weight)
    return c.add(total.div_(shares.masked_fill_(shares == 0, 1.0)), alpha=alpha)


def _most_varied(deltas: Sequence[Tensor], density: float) -> list[Tensor]:
    spread = _deviation(deltas)
    differing = int((spread > 0).sum())
    count = kept_count(density, differing)
    if count == 0:
        return [delta.new_zeros(delta.shape) for delta in deltas]
    lost = spread < order_statistic(spread, spread.numel() - count)
    return [delta.masked_fill(lost, 0.0) for delta in deltas]


def _deviation(deltas: Sequence[Tensor]) -> Tensor:
    """Standard deviation between models, up to a factor."""
    if len(deltas) == 2:
        return (deltas[0] - deltas[1]).abs_()
    mean = _sum(deltas).div_(len(deltas))
    return _sum([(delta - mean).square_() for delta in deltas]).sqrt_()


def _squares(deltas: Sequence[Tensor]) -> list[float]:
    """Sums of squares relative to the largest; equal where all are zero."""
    largest = max((float(delta.abs().max()) for delta in deltas if delta.numel()), default=0.0)
    if largest == 0:
        return [1.0] * len(deltas)
    squares = [float(delta.div(largest).square_().sum()) for delta in deltas]
    return [square / max(squares) for square in squares]


@merge_method(elementwise=False, search={"epsilon": (0.0, 1e-4)}, bounds={"epsilon": (0.0, float("inf"))})
def ram(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    reward: Weight = 0.0,
    epsilon: Weight = 1e-5,
) -> Tensor:
    """`C + alpha D`, D the difference of the one model that moved at a place, or the mean of all that did.

    Moved is what differs from C by more than epsilon. What only model i moved counts `1 + reward min(r, 0.2)` times,
    with r its places shared with others per place of its own. Source: https://arxiv.org/abs/2601.13572, as in mergekit
    (``ram`` at reward 0, ``ramplus_tl`` at 0.1).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0.
        reward: of what only one model has learned; any number.
        epsilon: the largest difference that is none, 0 or more, in units of the numbers themselves.
    """
    deltas = [model - c for model in (a, b, *more)]
    moved = [delta.abs() > epsilon for delta in deltas]
    count = _sum([place.to(c.dtype) for place in moved])
    alone = count == 1
    total = c.new_zeros(c.shape)
    for delta, place in zip(deltas, moved, strict=True):
        own, shared = int((place & alone).sum()), int((place & ~alone).sum())
        factor = 1 + reward * min(shared / max(own, 1e-5), 0.2)
        total.add_(delta.mul_(place).where(~alone, delta * factor))
    return c.add(total.div_(count.clamp_(min=1)), alpha=alpha)
