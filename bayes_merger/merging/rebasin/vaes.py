"""The spaces of the VAE of Stable Diffusion 1, 2 and XL: those of its encoder and of its decoder."""

from __future__ import annotations

from bayes_merger.checkpoints.naming import VAE
from bayes_merger.merging.rebasin.spaces import Space, Tensors, attention
from bayes_merger.merging.rebasin.streams import Resnet, Stream, Walk

_RESNET = Resnet("norm1", "conv1", ("conv1", "norm2"), "conv2", "nin_shortcut")


def vae_spaces(tensors: Tensors, groups: int) -> tuple[Space, ...]:
    """The spaces of a VAE; its pictures and latents keep their channels.

    Args:
        tensors: of the model.
        groups: of the VAE's GroupNorms; 0 for a VAE that stays in its order.

    Raises:
        ValueError: the groups do not divide its channels.
        KeyError: it lacks a tensor.
    """
    if not groups:
        return ()
    return (*_Coder(tensors, groups, "encoder").spaces(), *_Coder(tensors, groups, "decoder").spaces())


class _Coder(Walk):
    """One half of a VAE.

    Args:
        tensors: of the model.
        groups: of the VAE's GroupNorms.
        name: of the half.
    """

    def __init__(self, tensors: Tensors, groups: int, name: str) -> None:
        super().__init__(tensors, groups, _RESNET)
        self._start = f"{VAE}{name}."
        self._encodes = name == "encoder"

    def spaces(self) -> tuple[Space, ...]:
        """All of them, streams first; no norm reads two side by side, so that whole groups change places in all."""
        current = self.new(f"{self._start}conv_in")
        if self._encodes:
            current = self._middle(self._levels("down", current))
        else:
            current = self._levels("up", self._middle(current))
        self.norm(f"{self._start}norm_out", [current])
        self.read([current], f"{self._start}conv_out")
        return (*(stream.space(exchange=True) for stream in self.streams), *self.inner)

    def _levels(self, way: str, current: Stream) -> Stream:
        """What is behind all levels; those of the decoder are numbered from the picture, too."""
        numbers = self.tensors.numbers(f"{self._start}{way}.")
        for number in numbers if self._encodes else reversed(numbers):
            level = f"{self._start}{way}.{number}."
            for block in self.tensors.numbers(f"{level}block."):
                current = self.resnet(f"{level}block.{block}", [current])
            resized = f"{level}{way}sample.conv"
            if self.tensors.has(resized):
                self.read([current], resized)
                current = self.new(resized)
        return current

    def _middle(self, current: Stream) -> Stream:
        middle = f"{self._start}mid."
        current = self.resnet(f"{middle}block_1", [current])
        if self.tensors.has(f"{middle}attn_1.q"):
            self._attention(f"{middle}attn_1", current)
        return self.resnet(f"{middle}block_2", [current])

    def _attention(self, name: str, stream: Stream) -> None:
        """One head, so that its channels change places freely."""
        tensors = self.tensors
        self.norm(f"{name}.norm", [stream])
        for layer in ("q", "k", "v"):
            self.read([stream], f"{name}.{layer}")
        stream.axes += tensors.rows(f"{name}.proj_out")
        inside = tensors.rows(f"{name}.q", f"{name}.k")
        outside = tensors.rows(f"{name}.v") + tensors.columns(f"{name}.proj_out")
        self.inner.append(attention(name, 1, tensors.width(f"{name}.q"), inside, outside))
