"""The spaces of the U-Nets of Stable Diffusion 1, 2 and XL, found by walking through their blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bayes_merger.checkpoints.naming import UNET
from bayes_merger.merging.rebasin.spaces import Axis, Layout, Space, Tensors, attention
from bayes_merger.merging.rebasin.streams import Resnet, Stream, Walk

_RESNET = Resnet(
    "in_layers.0", "in_layers.2", ("in_layers.2", "emb_layers.1", "out_layers.0"), "out_layers.3", "skip_connection"
)


def unet_spaces(tensors: Tensors, layout: Layout) -> tuple[Space, ...]:
    """The spaces of a U-Net; none where the model has none.

    Raises:
        ValueError: the layout does not fit.
        KeyError: it lacks a tensor.
    """
    if not tensors.has(f"{UNET}input_blocks.0.0"):
        return ()
    return tuple(_Walk(tensors, layout).spaces())


class _Walk(Walk):
    def __init__(self, tensors: Tensors, layout: Layout) -> None:
        super().__init__(tensors, layout.groups, _RESNET)
        self._heads = layout.heads
        self._embedding: list[Axis] = []

    def spaces(self) -> Iterator[Space]:
        """All of them; embeddings first, then each stream before what lies between streams."""
        self._blocks()
        tensors = self.tensors
        layers = [name for name in (f"{UNET}time_embed.", f"{UNET}label_emb.0.") if tensors.has(f"{name}0")]
        for layer in layers:
            hidden = tensors.rows(f"{layer}0") + tensors.columns(f"{layer}2")
            yield Space(f"{layer}0", (tensors.width(f"{layer}0"),), (hidden,))
        rows = tensors.rows(*(f"{layer}2" for layer in layers))
        yield Space(f"{UNET}time_embed.2", (tensors.width(f"{UNET}time_embed.2"),), (rows + tuple(self._embedding),))
        yield from (stream.space() for stream in self.streams)
        yield from self.inner

    def _blocks(self) -> None:
        tensors = self.tensors
        current = self.new(f"{UNET}input_blocks.0.0")
        skips = [current]
        for number in tensors.numbers(f"{UNET}input_blocks.")[1:]:
            current = self._block(f"{UNET}input_blocks.{number}.", [current])
            skips.append(current)
        current = self._block(f"{UNET}middle_block.", [current])
        for number in tensors.numbers(f"{UNET}output_blocks."):
            current = self._block(f"{UNET}output_blocks.{number}.", [current, skips.pop()])
        self.norm(f"{UNET}out.0", [current])
        self.read([current], f"{UNET}out.2")

    def _block(self, start: str, streams: Sequence[Stream]) -> Stream:
        """What a block's last layer writes."""
        for number in self.tensors.numbers(start):
            layer = f"{start}{number}"
            if self.tensors.has(f"{layer}.in_layers.2"):
                streams = [self.resnet(layer, streams)]
                self._embedding += self.tensors.columns(f"{layer}.emb_layers.1")
            elif self.tensors.has(f"{layer}.proj_in"):
                self._transformer(layer, streams[0])
            else:  # half or twice the size
                changed = f"{layer}.op" if self.tensors.has(f"{layer}.op") else f"{layer}.conv"
                self.read(streams, changed)
                streams = [self.new(changed)]
        return streams[0]

    def _transformer(self, layer: str, stream: Stream) -> None:
        """A spatial transformer: its inner stream is one for all its blocks."""
        tensors = self.tensors
        self.norm(f"{layer}.norm", [stream])
        self.read([stream], f"{layer}.proj_in")
        stream.axes += tensors.rows(f"{layer}.proj_out")
        size = tensors.width(f"{layer}.proj_in")
        inner = tensors.rows(f"{layer}.proj_in") + tensors.columns(f"{layer}.proj_out")
        between: list[Space] = []
        for number in tensors.numbers(f"{layer}.transformer_blocks."):
            block = f"{layer}.transformer_blocks.{number}."
            inner += self._inner_axes(block)
            between += self._within(block, size)
        self.inner += [Space(f"{layer}.proj_in", (size,), (inner,)), *between]

    def _inner_axes(self, block: str) -> tuple[Axis, ...]:
        written = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.2")
        read = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "ff.net.0.proj")
        rows = self.tensors.rows(*(block + layer for layer in written))
        return rows + self.tensors.columns(*(block + layer for layer in read))

    def _within(self, block: str, size: int) -> Iterator[Space]:
        """The heads, and the hidden neurons of GEGLU: values and gates are halves of one layer."""
        tensors = self.tensors
        if size not in self._heads:
            raise ValueError(f"{block}attn1 is {size} wide, which is none of the U-Net's widths in the config")
        for name in (f"{block}attn1", f"{block}attn2"):
            inside = tensors.rows(f"{name}.to_q", f"{name}.to_k")
            outside = tensors.rows(f"{name}.to_v") + tensors.columns(f"{name}.to_out.0")
            yield attention(name, self._heads[size], tensors.width(f"{name}.to_q"), inside, outside)
        name = f"{block}ff.net.0.proj"
        half = tensors.width(name) // 2
        axes = tensors.rows(name) + tensors.rows(name, offset=half) + tensors.columns(f"{block}ff.net.2")
        yield Space(name, (half,), (axes,))
