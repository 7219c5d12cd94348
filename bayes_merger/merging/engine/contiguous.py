"""Tensors that lie side by side in memory are merged as one: a whole block in a single call.

That saves little per tensor on a CPU and nearly all of the time on a GPU, where a call costs more than a small tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ContiguousSpan:
    """Tensors that follow one another without a gap, in every model and in the live model.

    Attributes:
        keys: their names, in the order of their addresses.
        size: count of numbers in all of them together.
    """

    keys: tuple[str, ...]
    size: int


def spans_of(tensors: Iterable[tuple[str, Sequence[Tensor]]]) -> list[ContiguousSpan]:
    """The longest possible spans, in the given order.

    Args:
        tensors: key, and tensors of one shape: the models' and the live one.
    """
    spans: list[ContiguousSpan] = []
    ends: list[tuple[object, ...]] | None = None
    for key, group in tensors:
        begins = [(t.dtype, t.untyped_storage()._cdata, t.data_ptr()) for t in group]
        solid = all(t.is_contiguous() for t in group) and group[0].numel() > 0
        if spans and solid and ends == begins:
            spans[-1] = ContiguousSpan((*spans[-1].keys, key), spans[-1].size + group[0].numel())
        else:
            spans.append(ContiguousSpan((key,), group[0].numel()))
        ends = [(*begin[:2], begin[2] + t.nbytes) for begin, t in zip(begins, group, strict=True)] if solid else None
    return spans


def whole(first: Tensor, size: int) -> Tensor:
    """``size`` numbers as one vector, from the first of a tensor on, also past its end."""
    return first.as_strided((size,), (1,))
