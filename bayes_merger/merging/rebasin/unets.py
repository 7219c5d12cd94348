"""The spaces of the U-Nets of Stable Diffusion 1, 2 and XL, found by walking through their blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from bayes_merger.checkpoints.naming import UNET
from bayes_merger.merging.rebasin.spaces import Axis, Layout, Space, Tensors, attention, equal_cells


@dataclass
class _Stream:
    """Channels that residual additions keep in one order, until a layer makes new ones.

    A GroupNorm may read several streams side by side, and its groups need not end where they do: what may change places
    is within the common refinement of the groups of all norms that read the stream.
    """

    name: str
    size: int
    axes: list[Axis] = field(default_factory=list)
    edges: set[int] = field(default_factory=set)

    def space(self) -> Space:
        """As a space."""
        edges = [0, *sorted(self.edges), self.size]
        cells = tuple(end - begin for begin, end in pairwise(edges))
        return Space(self.name, cells, (tuple(self.axes),))


_Read = list[_Stream]  # streams side by side, as the output blocks read them


def unet_spaces(tensors: Tensors, layout: Layout) -> tuple[Space, ...]:
    """The spaces of a U-Net; none where the model has none.

    Raises:
        ValueError: the layout does not fit.
    """
    if not tensors.has(f"{UNET}input_blocks.0.0"):
        return ()
    return tuple(_Walk(tensors, layout).spaces())


class _Walk:
    def __init__(self, tensors: Tensors, layout: Layout) -> None:
        self._tensors = tensors
        self._layout = layout
        self._streams: list[_Stream] = []
        self._embedding: list[Axis] = []
        self._inner: list[Space] = []

    def spaces(self) -> Iterator[Space]:
        """All of them; embeddings first, then each stream before what lies between streams."""
        self._blocks()
        tensors = self._tensors
        layers = [name for name in (f"{UNET}time_embed.", f"{UNET}label_emb.0.") if tensors.has(f"{name}0")]
        for layer in layers:
            hidden = tensors.rows(f"{layer}0") + tensors.columns(f"{layer}2")
            yield Space(f"{layer}0", (tensors.width(f"{layer}0"),), (hidden,))
        rows = tensors.rows(*(f"{layer}2" for layer in layers))
        yield Space(f"{UNET}time_embed.2", (tensors.width(f"{UNET}time_embed.2"),), (rows + tuple(self._embedding),))
        yield from (stream.space() for stream in self._streams)
        yield from self._inner

    def _blocks(self) -> None:
        tensors = self._tensors
        current = self._new(f"{UNET}input_blocks.0.0")
        skips = [current]
        for number in tensors.numbers(f"{UNET}input_blocks.")[1:]:
            current = self._block(f"{UNET}input_blocks.{number}.", [current])
            skips.append(current)
        current = self._block(f"{UNET}middle_block.", [current])
        for number in tensors.numbers(f"{UNET}output_blocks."):
            current = self._block(f"{UNET}output_blocks.{number}.", [current, skips.pop()])
        self._norm(f"{UNET}out.0", [current])
        self._read([current], f"{UNET}out.2")

    def _block(self, start: str, read: _Read) -> _Stream:
        """What a block's last layer writes."""
        for number in self._tensors.numbers(start):
            layer = f"{start}{number}"
            if self._tensors.has(f"{layer}.in_layers.2"):
                read = [self._resnet(layer, read)]
            elif self._tensors.has(f"{layer}.proj_in"):
                self._transformer(layer, read[0])
            else:  # half or twice the size
                changed = f"{layer}.op" if self._tensors.has(f"{layer}.op") else f"{layer}.conv"
                self._read(read, changed)
                read = [self._new(changed)]
        return read[0]

    def _new(self, layer: str) -> _Stream:
        stream = _Stream(layer, self._tensors.width(layer), list(self._tensors.rows(layer)))
        self._streams.append(stream)
        return stream

    def _read(self, read: _Read, layer: str) -> None:
        offset = 0
        for stream in read:
            stream.axes += self._tensors.columns(layer, offset=offset)
            offset += stream.size

    def _norm(self, layer: str, read: _Read) -> None:
        size = equal_cells(sum(stream.size for stream in read), self._layout.groups, layer)[0]
        offset = 0
        for stream in read:
            stream.axes += self._tensors.rows(layer, offset=offset)
            stream.edges |= {edge for edge in range(-offset % size, stream.size, size) if edge}
            offset += stream.size

    def _resnet(self, layer: str, read: _Read) -> _Stream:
        tensors = self._tensors
        self._norm(f"{layer}.in_layers.0", read)
        self._read(read, f"{layer}.in_layers.2")
        hidden = tensors.rows(f"{layer}.in_layers.2", f"{layer}.emb_layers.1", f"{layer}.out_layers.0")
        hidden += tensors.columns(f"{layer}.out_layers.3")
        self._embedding += tensors.columns(f"{layer}.emb_layers.1")
        name = f"{layer}.in_layers.2"
        cells = equal_cells(tensors.width(name), self._layout.groups, name)
        self._inner.append(Space(name, cells, (hidden,), exchange=True))
        if not tensors.has(f"{layer}.skip_connection"):
            read[0].axes += tensors.rows(f"{layer}.out_layers.3")
            return read[0]
        self._read(read, f"{layer}.skip_connection")
        written = self._new(f"{layer}.skip_connection")
        written.axes += tensors.rows(f"{layer}.out_layers.3")
        return written

    def _transformer(self, layer: str, stream: _Stream) -> None:
        """A spatial transformer: its inner stream is one for all its blocks."""
        tensors = self._tensors
        self._norm(f"{layer}.norm", [stream])
        self._read([stream], f"{layer}.proj_in")
        stream.axes += tensors.rows(f"{layer}.proj_out")
        size = tensors.width(f"{layer}.proj_in")
        inner = tensors.rows(f"{layer}.proj_in") + tensors.columns(f"{layer}.proj_out")
        between: list[Space] = []
        for number in tensors.numbers(f"{layer}.transformer_blocks."):
            block = f"{layer}.transformer_blocks.{number}."
            inner += self._inner_axes(block)
            between += self._within(block, size)
        self._inner += [Space(f"{layer}.proj_in", (size,), (inner,)), *between]

    def _inner_axes(self, block: str) -> tuple[Axis, ...]:
        written = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.2")
        read = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "ff.net.0.proj")
        rows = self._tensors.rows(*(block + layer for layer in written))
        return rows + self._tensors.columns(*(block + layer for layer in read))

    def _within(self, block: str, size: int) -> Iterator[Space]:
        """The heads, and the hidden neurons of GEGLU: values and gates are halves of one layer."""
        tensors = self._tensors
        if size not in self._layout.heads:
            raise ValueError(f"{block}attn1 is {size} wide, which is none of the U-Net's widths in the config")
        for name in (f"{block}attn1", f"{block}attn2"):
            inside = tensors.rows(f"{name}.to_q", f"{name}.to_k")
            outside = tensors.rows(f"{name}.to_v") + tensors.columns(f"{name}.to_out.0")
            yield attention(name, self._layout.heads[size], tensors.width(f"{name}.to_q"), inside, outside)
        name = f"{block}ff.net.0.proj"
        half = tensors.width(name) // 2
        axes = tensors.rows(name) + tensors.rows(name, offset=half) + tensors.columns(f"{block}ff.net.2")
        yield Space(name, (half,), (axes,))
