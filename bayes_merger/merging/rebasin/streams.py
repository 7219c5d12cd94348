"""Channels that residual additions keep in one order, gathered in a walk through the blocks that have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from bayes_merger.merging.rebasin.spaces import Axis, Space, Tensors, equal_cells


@dataclass
class Stream:
    """Channels that residual additions keep in one order, until a layer makes new ones.

    A GroupNorm may read several streams side by side, and its groups need not end where they do: what may change places
    is within the common refinement of the groups of all norms that read the stream.
    """

    name: str
    size: int
    axes: list[Axis] = field(default_factory=list)
    edges: set[int] = field(default_factory=set)

    def space(self, *, exchange: bool = False) -> Space:
        """As a space.

        Args:
            exchange: whether whole groups change places: where all norms read it alone, so that they are the same.
        """
        edges = [0, *sorted(self.edges), self.size]
        cells = tuple(end - begin for begin, end in pairwise(edges))
        return Space(self.name, cells, (tuple(self.axes),), exchange)


class Resnet(NamedTuple):
    """What the layers of residual blocks are called.

    Attributes:
        norm: before the first convolution.
        first: convolution, which writes the hidden channels.
        hidden: all layers that write them, and their norm.
        second: convolution, which reads them.
        shortcut: the convolution beside both, where the block changes the number of channels.
    """

    norm: str
    first: str
    hidden: tuple[str, ...]
    second: str
    shortcut: str


class Walk:
    """The streams of a network, and the spaces between them, as far as one has walked.

    Args:
        tensors: of the network.
        groups: of its GroupNorms.
        resnet: names of the layers of its residual blocks.

    Attributes:
        streams: in the order in which they begin.
        inner: what lies between streams.
    """

    def __init__(self, tensors: Tensors, groups: int, resnet: Resnet) -> None:
        self.tensors = tensors
        self.streams: list[Stream] = []
        self.inner: list[Space] = []
        self._groups = groups
        self._resnet = resnet

    def new(self, layer: str) -> Stream:
        """The stream that a layer begins."""
        stream = Stream(layer, self.tensors.width(layer), list(self.tensors.rows(layer)))
        self.streams.append(stream)
        return stream

    def read(self, streams: Sequence[Stream], layer: str) -> None:
        """A layer reads these streams, side by side."""
        offset = 0
        for stream in streams:
            stream.axes += self.tensors.columns(layer, offset=offset)
            offset += stream.size

    def norm(self, layer: str, streams: Sequence[Stream]) -> None:
        """A GroupNorm reads these streams, side by side.

        Raises:
            ValueError: its groups do not divide them.
        """
        size = equal_cells(sum(stream.size for stream in streams), self._groups, layer)[0]
        offset = 0
        for stream in streams:
            stream.axes += self.tensors.rows(layer, offset=offset)
            stream.edges |= {edge for edge in range(-offset % size, stream.size, size) if edge}
            offset += stream.size

    def resnet(self, block: str, streams: Sequence[Stream]) -> Stream:
        """What a residual block that reads these streams, side by side, adds to: the first of them, or a new one.

        Raises:
            ValueError: the groups do not divide its channels.
        """
        tensors, names = self.tensors, self._resnet
        self.norm(f"{block}.{names.norm}", streams)
        name, second, shortcut = (f"{block}.{layer}" for layer in (names.first, names.second, names.shortcut))
        self.read(streams, name)
        hidden = tensors.rows(*(f"{block}.{layer}" for layer in names.hidden)) + tensors.columns(second)
        self.inner.append(Space(name, equal_cells(tensors.width(name), self._groups, name), (hidden,), exchange=True))
        written = streams[0]
        if tensors.has(shortcut):
            self.read(streams, shortcut)
            written = self.new(shortcut)
        written.axes += tensors.rows(second)
        return written
