"""Differences to a base model of which only a part is kept: the largest, or those that the models agree on.

Every function takes fine-tuned models and their base C, tensors of one shape and dtype, and returns a new one; the
engine calls them on fp32. All are defined and finite for zero, constant, identical and opposite inputs, 0-d and empty
tensors, and give exactly C where no model has moved from it (hence A for identical models).

Of whole tensors only a few numbers are needed: thresholds, and weights of models. The rest works number by number, with
masks that are 1 or 0 in floating point, which is ten times faster than boolean indexing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.orders import kept_count, order_statistic
from bayes_merger.merging.methods.vectors import moved, sum_of
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:
    from torch import Tensor

_SHARE = (0.0, 1.0)
_ALL, _NONE = 0.0, float("inf")  # thresholds that keep all numbers, and none


def threshold(sizes: Tensor, share: float) -> float:
    """The smallest size kept when only the largest numbers are, a share of all; ties with it are kept too."""
    count = kept_count(share, sizes.numel())
    if count in (0, sizes.numel()):
        return _ALL if count else _NONE
    return float(order_statistic(sizes, sizes.numel() - count))


def at_least(delta: Tensor, smallest: float) -> Tensor:
    """``delta`` with all numbers of a smaller size set to zero."""
    import torch

    if smallest in (_ALL, _NONE):
        return delta.clone() if smallest == _ALL else torch.zeros_like(delta)
    sizes = delta.abs()
    return torch.ge(sizes, smallest, out=sizes).mul_(delta)


def keep_largest(delta: Tensor, share: float) -> Tensor:
    """``delta`` with all numbers set to zero but the largest in size, a share of all; ties are kept."""
    return at_least(delta, threshold(delta.abs(), share))


def agreeing_mean(deltas: Sequence[Tensor], vote: str = "sum", weights: Sequence[float] | None = None) -> Tensor:
    """Weighted mean, place by place, of the numbers with the elected sign; zeros have no sign and do not count.

    Args:
        deltas: Tensors of one shape.
        vote: ``sum`` elects the sign of the sum, ``count`` that of the majority; a tie gives zero.
        weights: of the tensors; all equal by default.
    """
    import torch

    signs = [delta.sign() for delta in deltas]
    elected = total_of(deltas if vote == "sum" else signs).sign_()
    total, shares = torch.zeros_like(elected), torch.zeros_like(elected)
    for number, (delta, sign) in enumerate(zip(deltas, signs, strict=True)):
        agrees = sign.mul_(elected).clamp_(min=0)
        weight = 1.0 if weights is None else weights[number]
        total.addcmul_(delta, agrees, value=weight)
        shares.add_(agrees, alpha=weight)
    return total.div_(shares).nan_to_num_(nan=0.0, posinf=float("inf"), neginf=-float("inf"))  # 0 / 0: no model agrees


def total_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum, a new tensor."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


def combined(deltas: Sequence[Tensor], how: str) -> Tensor:
    """Several differences as one: their mean, TIES's election, or the mean of those that are not zero."""
    import torch

    if how == "elect":
        return agreeing_mean(deltas)
    total = total_of(deltas)
    if how == "mean":
        return total.div_(len(deltas))
    count, one = torch.zeros_like(total), torch.empty_like(total)
    for delta in deltas:
        count.add_(torch.ne(delta, 0, out=one))
    return total.div_(count.clamp_(min=1))


def ties_sum(*deltas: Tensor, density: float = 0.2, vote: str = "sum") -> Tensor:
    """TIES of differences: trim each to its largest numbers, elect a sign, average the numbers that agree with it.

    Args:
        deltas: Tensors of one shape.
        density: share of numbers kept in each, in [0, 1].
        vote: as in ``agreeing_mean``.
    """
    return agreeing_mean([keep_largest(delta, density) for delta in deltas], vote)


def _sizes(model: Tensor, base: Tensor) -> Tensor:
    return (model - base).abs_()


def _thresholds(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, density: float) -> Prepared:
    return tuple(
        threshold(_sizes(model, c), density) if 0 < density < 1 else _extreme_threshold(density)
        for model in (a, b, *more)
    )


def _extreme_threshold(density: float) -> float:
    return _NONE if density <= 0 else _ALL


@merge_method(
    elementwise=True,
    prepare=_thresholds,
    bounds={"density": _SHARE},
    choices={"vote": ("sum", "count")},
    cost=Cost(11, 4.7),
    aliases=("ties_add_difference", "ties_sum", "add_difference_ties"),
)
def ties(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    density: float = 0.2,
    vote: str = "sum",
    prepared: Prepared | None = None,
) -> Tensor:
    """`C + alpha TIES(A - C, B - C)`: trim to the largest numbers, elect a sign, average what agrees.

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
        prepared: the smallest size that each difference keeps, if already computed.
    """
    smallest = prepared or _thresholds(a, b, c, *more, density=density)
    deltas = [at_least(model - c, size) for model, size in zip((a, b, *more), smallest, strict=True)]
    return agreeing_mean(deltas, vote).mul_(alpha).add_(c)


def _size_ranges(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, density: float, outliers: float) -> Prepared:
    """Smallest and largest size that each difference keeps."""
    return tuple(_size_range(_sizes(model, c), density, outliers) for model in (a, b, *more))


def _size_range(sizes: Tensor, density: float, outliers: float) -> tuple[float, float]:
    total = sizes.numel()
    count = kept_count(density, total)
    if count == 0:
        return _NONE, _NONE
    low = max(total - count - int(outliers * total + 1e-9 * total), 0)
    smallest = float(order_statistic(sizes, low)) if low > 0 else _ALL
    return smallest, float(order_statistic(sizes, low + count - 1)) if low + count < total else _NONE


@merge_method(
    elementwise=True,
    prepare=_size_ranges,
    search={"outliers": (0.0, 0.1)},
    bounds={"density": _SHARE, "outliers": _SHARE},
    choices={"combine": ("mean", "elect")},
    cost=Cost(12, 4.5),
)
def breadcrumbs(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    density: float = 0.8,
    outliers: float = 0.01,
    combine: str = "mean",
    prepared: Prepared | None = None,
) -> Tensor:
    """`C + alpha mean_i(m_i (X_i - C))`: each difference without its largest and its smallest numbers.

    Of n numbers the `outliers n` largest are removed first (rounded down: none of a short tensor), then the smallest
    until `density n` are left; outliers stay if fewer would be left otherwise. Ties are kept. Source:
    https://arxiv.org/abs/2312.06795; ``combine="elect"`` elects signs as TIES does (mergekit's breadcrumbs_ties).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0. (Their sum: the number of models.)
        density: share of numbers that each difference keeps, in [0, 1]; 0 keeps none.
        outliers: share of all numbers removed as the largest, in [0, 1].
        combine: ``mean`` or ``elect``.
        prepared: the smallest and largest size that each difference keeps, if already computed.
    """
    ends = prepared or _size_ranges(a, b, c, *more, density=density, outliers=outliers)
    deltas = [_between(model - c, low, high) for model, (low, high) in zip((a, b, *more), ends, strict=True)]
    return combined(deltas, combine).mul_(alpha).add_(c)


def _between(delta: Tensor, smallest: float, largest: float) -> Tensor:
    """``delta`` with all numbers of a smaller or larger size set to zero."""
    import torch

    kept = at_least(delta, smallest)
    if largest < _NONE:
        sizes = delta.abs()
        kept.mul_(torch.le(sizes, largest, out=sizes))
    return kept


def _selection(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, density: float) -> Prepared:
    """The smallest spread that is kept, and the weight of each model."""
    models = (a, b, *more)
    smallest = _ALL
    if density < 1 and a.numel():
        spread = _spread([model - c for model in models])
        count = kept_count(density, int((spread > 0).sum()))
        smallest = float(order_statistic(spread, spread.numel() - count)) if count else _NONE
    largest, squares = 0.0, [0.0] * len(models)
    for piece in moved(models, c):
        largest = max(largest, *(float(part.abs().max()) for part in _select(piece, smallest)))
    for piece in moved(models, c) if largest else ():
        for i, part in enumerate(_select(piece, smallest)):
            squares[i] += sum_of(part.div_(largest).square_())
    return (smallest, *(square / max(squares) if largest else 1.0 for square in squares))


def _select(deltas: Sequence[Tensor], smallest: float) -> list[Tensor]:
    """The differences where they vary at least this much between models, else zero."""
    import torch

    if smallest == _ALL:
        return [delta.clone() for delta in deltas]
    spread = _spread(deltas)
    kept = torch.ge(spread, smallest, out=spread)
    return [delta * kept for delta in deltas]


def _spread(deltas: Sequence[Tensor]) -> Tensor:
    """Standard deviation between models, up to a factor."""
    if len(deltas) == 2:
        return (deltas[0] - deltas[1]).abs_()
    mean = total_of(deltas).div_(len(deltas))
    return total_of([(delta - mean).square_() for delta in deltas]).sqrt_()


@merge_method(elementwise=True, prepare=_selection, bounds={"density": _SHARE}, cost=Cost(20, 6.3))
def sce(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    density: float = 1.0,
    prepared: Prepared | None = None,
) -> Tensor:
    """`C + alpha sum_i(w_i m_i d_i) / sum_i(w_i m_i)` with `w_i = sum(d_i^2)`: select, calculate, erase.

    Of the differences `d_i = X_i - C` only the places where they vary most between models are kept. `m_i` is 1 where
    `d_i` has the sign of their sum (0 in a tie). Models that moved further count more, at any scale (mergekit takes
    equal weights where the mean square is below 1e-6, as it is in all fine-tuned diffusion models). Source:
    https://arxiv.org/abs/2408.07990.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0.
        density: share of places kept, of those where models differ; 1 keeps all places.
        prepared: the smallest variation that is kept and the models' weights, if already computed.
    """
    smallest, *weights = prepared or _selection(a, b, c, *more, density=density)
    deltas = _select([model - c for model in (a, b, *more)], smallest)
    return agreeing_mean(deltas, weights=weights).mul_(alpha).add_(c)


def _factors(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, reward: float, epsilon: float) -> Prepared:
    """Each model's factor for the places where it alone moved."""
    models = (a, b, *more)
    own, shared = [0.0] * len(models), [0.0] * len(models)
    for piece in moved(models, c) if reward else ():
        places = [_moved(part, epsilon) for part in piece]
        by_one = _by_one(total_of(places))
        for i, place in enumerate(places):
            unshared = sum_of(place * by_one)
            own[i], shared[i] = own[i] + unshared, shared[i] + sum_of(place) - unshared
    return tuple(1 + reward * min(s / max(o, 1e-5), 0.2) for o, s in zip(own, shared, strict=True))


def _moved(delta: Tensor, epsilon: float) -> Tensor:
    """1 where a difference is larger than epsilon, else 0."""
    import torch

    sizes = delta.abs()
    return torch.gt(sizes, epsilon, out=sizes)


def _by_one(count: Tensor) -> Tensor:
    """1 where exactly one model moved, else 0."""
    import torch

    return torch.eq(count, 1, out=torch.empty_like(count))


@merge_method(
    elementwise=True,
    prepare=_factors,
    search={"epsilon": (0.0, 1e-4)},
    bounds={"epsilon": (0.0, float("inf"))},
    cost=Cost(7, 3.6),
    aliases=("ramplus_tl",),
)
def ram(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    reward: float = 0.0,
    epsilon: float = 1e-5,
    prepared: Prepared | None = None,
) -> Tensor:
    """`C + alpha D`, D the difference of the one model that moved at a place, or the mean of all that did.

    A number has moved if it differs from C by more than epsilon. Where only model i moved, its difference is multiplied
    by `1 + reward min(r, 0.2)`, with r the ratio of places it shares with others to places it alone moved. Source:
    https://arxiv.org/abs/2601.13572, as in mergekit (``ram`` at reward 0, ``ramplus_tl`` at 0.1).

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the base of all others.
        more: Tensors like ``a``, further fine-tuned models.
        alpha: how much of the merged difference; any number, C at 0.
        reward: for what only one model has learned; any number.
        epsilon: the largest difference that counts as no change, 0 or more, in units of the numbers themselves.
        prepared: the factors for places where one model alone moved, if already computed.
    """
    factors = prepared or _factors(a, b, c, *more, reward=reward, epsilon=epsilon)
    deltas = [model - c for model in (a, b, *more)]
    places = [_moved(delta, epsilon) for delta in deltas]
    count = total_of(places)
    by_one = _by_one(count)
    for delta, place, factor in zip(deltas, places, factors, strict=True):
        delta.mul_(place).mul_((by_one * (factor - 1)).add_(1))
    return total_of(deltas).div_(count.clamp_(min=1)).mul_(alpha).add_(c)
