"""Differences to a base model of which a random choice is kept, the rest enlarged.

Every function takes fine-tuned models and their base C, tensors of one shape and dtype, and returns a new one; the
engine calls them on fp32. All are defined and finite for zero, constant, identical and opposite inputs, 0-d and empty
tensors, and give exactly C where no model has moved from it (hence A for identical models). What is drawn depends on
the seed, the tensor's key and the model's number alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.methods.orders import stable_order
from bayes_merger.merging.methods.sparse import combined
from bayes_merger.merging.parameters import Cost, Prepared, Weight

if TYPE_CHECKING:
    from torch import Generator, Tensor

_SHARE = (0.0, 1.0)
_PIECE = 2**14  # numbers drawn at a time


def generator_for(seed: int, key: str, number: int) -> Generator:
    """A generator on the CPU that draws the same for a seed, tensor and model on every machine and in every order."""
    import torch

    digest = hashlib.sha256(f"{seed}:{number}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _draw(like: Tensor, seed: int, key: str, number: int) -> Tensor:
    """Uniform numbers in [0, 1) of ``like``'s shape, drawn on the CPU."""
    import torch

    drawn = torch.rand(like.shape, generator=generator_for(seed, key, number), dtype=torch.float32)
    return drawn.to(like.device)


_COMBINE = ("mean", "elect", "active")


def _kept(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, probability: float, seed: int = 0, key: str = "") -> Prepared:
    """One byte per place for each model: 1 where its number stays."""
    import torch

    if probability >= 1:
        return tuple(torch.zeros_like(model, dtype=torch.uint8) for model in (a, b, *more))
    return tuple(_stays(model, probability, seed, key, number) for number, model in enumerate((a, b, *more)))


def _stays(like: Tensor, probability: float, seed: int, key: str, number: int) -> Tensor:
    """As ``_draw`` and compared, piece by piece: the same numbers are drawn in the same order."""
    import torch

    generator = generator_for(seed, key, number)
    stays = torch.empty(like.numel(), dtype=torch.uint8)
    drawn = torch.empty(min(_PIECE, like.numel()), dtype=torch.float32)
    for piece in torch.split(stays, _PIECE):
        torch.ge(drawn[: piece.numel()].uniform_(generator=generator), probability, out=piece)
    return stays.view(like.shape).to(like.device)


@merge_method(
    elementwise=True,
    prepare=_kept,
    search={"probability": (0.0, 0.95)},
    bounds={"probability": _SHARE},
    choices={"combine": _COMBINE},
    cost=Cost(9, 4),
    aliases=("dare", "dare_linear", "n_supermario"),
)
def dropout(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    probability: float = 0.5,
    combine: str = "mean",
    seed: int = 0,
    key: str = "",
    prepared: Prepared | None = None,
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
        prepared: which numbers stay, where that is drawn already.
    """
    if probability >= 1:
        return c.clone()
    stays = prepared or _kept(a, b, c, *more, probability=probability, seed=seed, key=key)
    deltas = [(model - c).mul_(place) for model, place in zip((a, b, *more), stays, strict=True)]
    return combined(deltas, combine).mul_(alpha / (1 - probability)).add_(c)


def _all_ranks(a: Tensor, b: Tensor, c: Tensor, *more: Tensor, ranks: str = "rows") -> Prepared:
    """The place of each number in its row, for each difference."""
    if a.numel() == 0:
        return (None,)
    return tuple(_ranks((model - c).reshape(_rows(a, ranks))).reshape(a.shape) for model in (a, b, *more))


def _rows(tensor: Tensor, ranks: str) -> tuple[int, int]:
    return (tensor.shape[0], -1) if ranks == "rows" and tensor.ndim > 1 else (1, -1)


@merge_method(
    prepare=_all_ranks,
    search={"probability": (0.0, 0.9), "window": (0.0, 0.2)},
    bounds={"probability": _SHARE, "window": _SHARE},
    choices={"ranks": ("rows", "tensor"), "combine": ("elect", "mean", "active")},
    cost=Cost(85, 14),
)
def della(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *more: Tensor,
    alpha: Weight = 1.0,
    probability: float = 0.5,
    window: float = 0.1,
    ranks: str = "rows",
    combine: str = "elect",
    seed: int = 0,
    key: str = "",
    prepared: Prepared | None = None,
) -> Tensor:
    """DELLA: as dropout, but small numbers are dropped rather than large ones, and then signs are elected.

    The number of rank r (0 the largest) of the n in a row is dropped with `p_r = p + window ((r + 1/2) / n - 1/2)`,
    clamped to [0, 1], and enlarged by `1 / (1 - p_r)` if it stays. Window 0 is dropout. Source:
    https://arxiv.org/abs/2406.11617; sd-mecha ranks whole tensors (``ranks="tensor"``) and enlarges all equally,
    mergekit takes a window twice as wide.

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
        prepared: the ranks, where they are known.
    """
    import torch

    if a.numel() == 0:
        return c.clone()
    places = prepared or _all_ranks(a, b, c, *more, ranks=ranks)
    length = c.reshape(_rows(c, ranks)).shape[1]
    deltas = []
    for number, (model, place) in enumerate(zip((a, b, *more), places, strict=True)):
        chance = place.add(0.5).div_(length).sub_(0.5).mul_(window).add_(probability).clamp_(0, 1)
        drawn = _draw(model, seed, key, number)
        stays = torch.ge(drawn, chance, out=drawn)  # never at chance 1, since what is drawn is below that
        rest = chance.neg_().add_(1)
        deltas.append((model - c).mul_(stays).div_(rest.add_(torch.eq(rest, 0, out=torch.empty_like(rest)))))
    return combined(deltas, combine).mul_(alpha).add_(c)


def _ranks(delta: Tensor) -> Tensor:
    """Place of each number in its row, the largest in size first; of equal ones the first."""
    import torch

    order = stable_order(delta.abs().neg_())
    places = torch.arange(delta.shape[1], dtype=delta.dtype, device=delta.device)
    return torch.empty_like(delta).scatter_(1, order, places.expand_as(delta))
