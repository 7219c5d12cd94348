"""Orders of the neurons of every space, and a model seen in them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.merging.models.ema import ema_key
from bayes_merger.merging.rebasin.spaces import Space

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Orders = Mapping[str, Sequence["Tensor"]]
"""Name of a space -> for each of its tracks, which neuron comes first, second, ..."""


class _Place(NamedTuple):
    dim: int
    offset: int
    space: str
    track: int


class Permutation:
    """An order of the neurons of each of some spaces.

    Attributes:
        spaces: all of the model.
        orders: that of the spaces' neurons; it may be changed, by `reorder`.
    """

    def __init__(self, spaces: Sequence[Space], orders: Orders | None = None) -> None:
        import torch

        self.spaces = tuple(spaces)
        given = orders or {}
        self.orders: dict[str, list[Tensor]] = {
            space.name: list(given.get(space.name) or (torch.arange(space.size) for _ in space.tracks))
            for space in spaces
        }
        self._places: dict[str, list[_Place]] = defaultdict(list)
        for space in spaces:
            for number, track in enumerate(space.tracks):
                for axis in track:
                    self._places[axis.key].append(_Place(axis.dim, axis.offset, space.name, number))

    @classmethod
    def random(cls, spaces: Sequence[Space], generator: torch.Generator) -> Permutation:
        """A random one of all that change nothing."""
        return cls(spaces, {space.name: _random_orders(space, generator) for space in spaces})

    @property
    def keys(self) -> frozenset[str]:
        """Those of the tensors that have neurons in a space."""
        return frozenset(self._places)

    def reorder(self, space: Space, orders: Sequence[Tensor]) -> None:
        """Put the neurons of a space, as they stand now, in another order."""
        self.orders[space.name] = [now[order] for now, order in zip(self.orders[space.name], orders, strict=True)]

    def inverse(self) -> Permutation:
        """What undoes it."""
        return Permutation(
            self.spaces, {name: [order.argsort() for order in orders] for name, orders in self.orders.items()}
        )

    @property
    def sha256(self) -> str:
        """Of the orders, in hex."""
        found = hashlib.sha256()
        for name, orders in sorted(self.orders.items()):
            found.update(name.encode())
            for order in orders:
                found.update(order.numpy().astype("<i8").tobytes())
        return found.hexdigest()

    def check(self) -> None:
        """Refuse orders that change what the model computes: neurons stay within their cells, or whole cells move.

        Raises:
            ValueError: one does.
        """
        import torch

        for space in self.spaces:
            cells = torch.repeat_interleave(torch.arange(len(space.cells)), torch.tensor(space.cells))
            for order in self.orders[space.name]:
                if order.shape != cells.shape or not torch.equal(order.sort().values, torch.arange(space.size)):
                    raise ValueError(f"{space.name}: is no order of {space.size} neurons")
            sources = [cells[order] for order in self.orders[space.name]]  # the cell that each neuron comes from
            wanted = sources[0][:: space.cells[0]].repeat_interleave(space.cells[0]) if space.exchange else cells
            if not all(torch.equal(source, wanted) for source in sources):
                raise ValueError(f"{space.name}: neurons leave their cells")

    def moved(self, start: str = "") -> int:
        """How many neurons are not where they were, those of an attention counted in both tracks.

        Args:
            start: of the names of the spaces that count.
        """
        import torch

        counted = (orders for name, orders in self.orders.items() if name.startswith(start))
        return sum(int((order != torch.arange(len(order))).sum()) for orders in counted for order in orders)

    def total(self) -> int:
        """How many there are."""
        return sum(space.size * len(space.tracks) for space in self.spaces)

    def apply(self, key: str, tensor: Tensor) -> Tensor:
        """A tensor in the new order, bit for bit the numbers that it had."""
        import torch

        by_dim: dict[int, Tensor] = {}
        for dim, offset, space, track in self._places.get(key, ()):
            order = self.orders[space][track]
            index = by_dim.setdefault(dim, torch.arange(tensor.shape[dim]))
            index[offset : offset + len(order)] = order + offset
        for dim, index in by_dim.items():
            if not torch.equal(index, torch.arange(len(index))):
                tensor = tensor.index_select(dim, index)
        return tensor


def _random_orders(space: Space, generator: torch.Generator) -> list[Tensor]:
    import torch

    count = len(space.cells)
    places = torch.arange(space.size).split(space.cells)
    cells = torch.randperm(count, generator=generator).tolist() if space.exchange else range(count)
    return [
        torch.cat([places[cell][torch.randperm(len(places[cell]), generator=generator)] for cell in cells])
        for _ in space.tracks
    ]


class Permuted(ModelView):
    """A model with its neurons in another order; averages over training follow their tensors.

    Args:
        model: the model, which is closed with this.
        permutation: of its neurons.
        names: key of the permutation -> the model's own.
    """

    def __init__(self, model: Checkpoint, permutation: Permutation, names: Mapping[str, str]) -> None:
        super().__init__(model)
        self.permutation = permutation
        self._keys = {own: key for key, own in names.items()}
        self._keys |= {ema_key(own): key for key, own in names.items() if ema_key(own) in model.shapes}
        self._read_part = None  # a part of a tensor comes from all over it

    def _read_model(self, key: str) -> Tensor:
        self._model.release()  # what moves is copied: the file need not be in memory beside it
        tensor = super()._read_model(key)
        return self.permutation.apply(self._keys[key], tensor) if key in self._keys else tensor
