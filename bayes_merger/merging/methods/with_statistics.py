"""Methods that weight a tensor by how it compares with all others: they need statistics of the whole models.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32 and passes the
statistics. Without, the given tensors are taken as the whole models. All are defined and finite for zero,
constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.angular import column_cosine, whole_cosine
from bayes_merger.merging.parameters import Cost, ModelStatistic, Prepared, Statistics, Weight

if TYPE_CHECKING:
    from torch import Tensor


def _range(shares: list[Tensor]) -> Statistics:
    """Smallest and largest of all numbers, without those below the 1st percentile and then those above the 99th.

    A percentile that falls between two numbers is their midpoint.
    """
    import torch

    numbers = torch.cat([share.reshape(-1).double() for share in shares]) if shares else torch.zeros(0)
    kept = numbers.sort().values
    if kept.numel() == 0:
        return 0.0, 0.0
    kept = kept[kept >= _percentile(kept, 0.01)]
    kept = kept[kept <= _percentile(kept, 0.99)]
    return float(kept[0]), float(kept[-1])


def _percentile(ordered: Tensor, share: float) -> float:
    place = share * (ordered.numel() - 1)
    low = int(place)
    high = min(low + (place > low), ordered.numel() - 1)
    return (float(ordered[low]) + float(ordered[high])) / 2


def _similarity_a(a: Tensor, b: Tensor) -> Prepared:
    cosines = column_cosine(a, b)
    return ((cosines + (cosines.double().mean() if cosines.numel() else 0.0)).div(2).to(a.dtype),)


def _similarity_b(a: Tensor, b: Tensor) -> Prepared:
    return (column_cosine(a, b).add(whole_cosine(a, b)).div(2),)


def _similarity_b_of_one(a: Tensor, b: Tensor) -> Tensor:
    similarity: Tensor = _similarity_b(a, b)[0]
    return similarity


@merge_method(
    between=True,
    prepare=_similarity_a,
    statistic=ModelStatistic(column_cosine, _range),
    cost=Cost(34, 5.6),
    aliases=("cosineA",),
)
def cosine_a(
    a: Tensor, b: Tensor, *, alpha: float = 0.5, prepared: Prepared | None = None, statistics: Statistics | None = None
) -> Tensor:
    """`k A + (1 - k) B`, `k = clamp(s - |alpha|, 0, 1)`, s the similarity of A and B here, 0 to 1 over the model.

    Where they are more similar than elsewhere, A is kept; where they differ more, B is taken. The similarity is the
    mean of the cosine along the first dimension and of its average over the tensor; 0 and 1 are the smallest and the
    largest of these cosines in all merged tensors, without the outermost 1 % at each end. Exactly B at 1; where nothing
    differs, A at 0. A zero vector has cosine 0 with anything. Source: supermerger's cosineA, which does not limit the
    similarity to 1, so that a little of A is left at alpha = 1.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: subtracted from the similarity; its sign does not matter.
        prepared: the similarity before it is scaled to [0, 1], if already computed.
        statistics: smallest and largest cosine of the whole models.
    """
    similarity = prepared or _similarity_a(a, b)
    return _by_similarity(a, b, similarity, abs(alpha), statistics or _range([column_cosine(a, b)]))


@merge_method(
    between=True,
    prepare=_similarity_b,
    statistic=ModelStatistic(_similarity_b_of_one, _range),
    cost=Cost(34, 5.6),
    aliases=("cosineB",),
)
def cosine_b(
    a: Tensor, b: Tensor, *, alpha: Weight = 0.5, prepared: Prepared | None = None, statistics: Statistics | None = None
) -> Tensor:
    """`k A + (1 - k) B` as in cosine_a, with `k = clamp(s - alpha, 0, 1)` and the cosine of the whole tensors in s.

    The similarity is the mean of the cosine along the first dimension and of that of the whole tensors; 0 and 1 are its
    own smallest and largest value in all merged tensors, without the outermost 1 % at each end. Source: supermerger's
    cosineB, with the difference described in cosine_a.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: subtracted from the similarity; exactly B at 1, more of A below 0.
        prepared: the similarity before it is scaled to [0, 1], if already computed.
        statistics: smallest and largest similarity of the whole models.
    """
    similarity = prepared or _similarity_b(a, b)
    return _by_similarity(a, b, similarity, alpha, statistics or _range([similarity[0]]))


def _by_similarity(a: Tensor, b: Tensor, prepared: Prepared, subtracted: Weight, statistics: Statistics) -> Tensor:
    (similarity,), (low, high) = prepared, statistics
    if high == low:  # all similarities are equal
        low, high = low - 1, low
    share = similarity.sub(low).div_(high - low).clamp_(0, 1)
    return b.lerp(a, share.sub(subtracted).clamp_(0, 1).expand_as(a))
