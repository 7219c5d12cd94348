"""Where a merge has its models' tensors from: files, and models that are computed while they are asked for.

Whatever looks like a ``Checkpoint`` can be a model of a merge. Its ``tensor(key)`` gives a contiguous tensor that is
not written to, in the dtype that ``dtypes[key]`` announces: mapped from a file, or computed in fp32 (a LoRA on its
base, an earlier step of a recipe). Two attributes, which plain files need not have, say whether that tensor is always
the same:

- ``constant``: ``True`` (also when it is missing) if every tensor is the same for ever. Such tensors may be kept in
  memory. ``False`` if some may change between two merges, because numbers of their own are searched.
- ``version(key)``, asked only where ``constant`` is ``False``: anything hashable that is equal as long as the tensor of
  that key is the same bits, and different when it may not be; the numbers that went into it will do. It must be cheap,
  it is asked for every tensor of every candidate. ``version`` and ``tensor`` are asked one after the other, with no
  change in between. Such tensors are asked for anew whenever they are needed, and never kept.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from bayes_merger.checkpoints.checkpoint import Checkpoint


class Changing(Protocol):
    """A model whose tensors may change between two merges.

    Attributes:
        constant: ``False``.
    """

    constant: bool

    def version(self, key: str) -> Hashable:
        """What is equal for as long as the tensor of that key is the same bits."""
        ...


def is_constant(checkpoint: Checkpoint | Changing) -> bool:
    """Whether all tensors of a model are the same for ever."""
    return bool(getattr(checkpoint, "constant", True))


def version_of(checkpoint: Checkpoint | Changing, key: str) -> Hashable:
    """What is equal for as long as a tensor is the same bits; ``None`` for a model that never changes."""
    return None if is_constant(checkpoint) else cast(Changing, checkpoint).version(key)
