"""Aesthetic heads: small networks on top of a CLIP embedding, recognised by the keys of their files.

Known layouts:

- LAION v2 (`sac+logos+ava1-l14-linearMSE` and all descendants): five linear layers, `layers.{0,2,4,6,7}`, no activation
  between them (dropout does nothing at inference), so they are one affine map: https://github.com/christophschuhmann/improved-aesthetic-predictor
- its `reluMSE` variant: the same with ReLU, which shifts the numbers to `layers.{0,3,6,9,11}`
- one linear layer under any name (LAION v1, our own demo head)
- waifu-diffusion (`aes-B32-v0`): `fc1`, `fc2`, `fc3` with ReLU between and a sigmoid at the end
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.download import open_weights, read_weights

if TYPE_CHECKING:
    from torch import Tensor

LINEAR_STACK = (0, 2, 4, 6, 7)
RELU_STACK = (0, 3, 6, 9, 11)
STACKS = (LINEAR_STACK, RELU_STACK)  # any other numbering might hide an activation: refused rather than guessed
WAIFU = ["fc1", "fc2", "fc3"]


@dataclass(frozen=True)
class HeadLayout:
    """The layout of a head, from its keys and shapes.

    Attributes:
        layers: names of the linear layers, first to last (`weight` and `bias` under each; `""` is the top).
        width: length of the embedding it takes.
        relu: whether a ReLU stands between the layers.
        sigmoid: whether the result goes through a sigmoid, which makes it 0 to 1.
    """

    layers: tuple[str, ...]
    width: int
    relu: bool = False
    sigmoid: bool = False


@dataclass(frozen=True)
class Head:
    """A head ready to use: `layers` are (weight of shape out x in, bias of shape out), float32."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    relu: bool = False
    sigmoid: bool = False

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scores of shape N for `embeddings` of shape N x width, each of length 1."""
        import torch

        value = embeddings
        for number, (weight, bias) in enumerate(self.layers):
            if number and self.relu:
                value = torch.relu(value)
            value = torch.nn.functional.linear(value, weight, bias)
        if self.sigmoid:
            value = torch.sigmoid(value)
        return value.squeeze(-1)

    def collapsed(self) -> Head:
        """The same head as one affine map if there is no activation between its layers, else itself."""
        if self.relu or len(self.layers) == 1:
            return self
        weight, bias = (tensor.double() for tensor in self.layers[0])
        for following, offset in self.layers[1:]:
            weight, bias = following.double() @ weight, following.double() @ bias + offset.double()
        return Head(((weight.float(), bias.float()),), sigmoid=self.sigmoid)


def head_layout(shapes: Mapping[str, Sequence[int]], where: str) -> HeadLayout:
    """The kind of head that has these tensors.

    Args:
        shapes: key -> shape.
        where: setting and path, for messages.

    Raises:
        ConfigError: no known layout, or layers that do not follow each other.
    """
    names = _layer_names(shapes, where)
    width, size = shapes[_key(names[0], "weight")][-1], 0
    for name in names:
        weight, bias = tuple(shapes[_key(name, "weight")]), tuple(shapes[_key(name, "bias")])
        if len(weight) != 2 or bias != weight[:1] or (size and weight[1] != size):
            raise ConfigError(f"{where}: layer {name or 'weight'} has shape {weight}, bias {bias}; that is not a head")
        size = weight[0]
    if size != 1:
        raise ConfigError(f"{where}: it ends in {size} numbers, a head ends in one")
    waifu = list(names) == WAIFU
    return HeadLayout(names, width, relu=waifu or _indices(names) == RELU_STACK, sigmoid=waifu)


def read_layout(path: Path, setting: str) -> HeadLayout:
    """The kind of head in `path`; from the header alone for safetensors, without torch.

    Raises:
        ConfigError: damaged, or not a head.
    """
    if path.suffix == ".safetensors":
        with open_weights(path, setting) as file:
            return head_layout(file.shapes, f"{setting}: {path}")
    shapes = {key: tuple(tensor.shape) for key, tensor in read_weights(path, setting).items()}
    return head_layout(shapes, f"{setting}: {path}")


def load_head(path: Path, setting: str) -> Head:
    """The head in `path`, collapsed where that is exact.

    Raises:
        ConfigError: damaged, not a head, or not finite.
    """
    tensors = read_weights(path, setting)
    layout = head_layout({key: tuple(tensor.shape) for key, tensor in tensors.items()}, f"{setting}: {path}")
    layers = tuple((tensors[_key(n, "weight")].float(), tensors[_key(n, "bias")].float()) for n in layout.layers)
    if not all(bool(tensor.isfinite().all()) for layer in layers for tensor in layer):
        raise ConfigError(f"{setting}: {path} holds NaN or infinity; fetch it again")
    return Head(layers, layout.relu, layout.sigmoid).collapsed()


def _key(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _number(layer: str) -> int:
    return int("".join(filter(str.isdigit, layer.rpartition(".")[2])) or 0)


def _indices(layers: Sequence[str]) -> tuple[int, ...]:
    return tuple(_number(layer) for layer in layers)


def _layer_names(shapes: Mapping[str, Sequence[int]], where: str) -> tuple[str, ...]:
    names = sorted((key.rpartition(".")[0] for key in shapes if key.rpartition(".")[2] == "weight"), key=_number)
    complete = set(shapes) == {_key(name, part) for name in names for part in ("weight", "bias")}
    stack = all(re.fullmatch(r"(.+\.)?layers\.\d+", name) for name in names) and _indices(names) in STACKS
    if not complete or not (len(names) == 1 or stack or names == WAIFU):
        raise ConfigError(
            f"{where} is not an aesthetic head this program knows; its tensors: {', '.join(sorted(shapes)[:8])}"
        )
    return tuple(names)
