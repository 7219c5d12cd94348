"""Aesthetic heads: small networks on top of a tower's embedding, recognised by the keys of their files.

Known layouts:

- LAION v2 (`sac+logos+ava1-l14-linearMSE` and all descendants): five linear layers, `layers.{0,2,4,6,7}`, no activation
  between them (dropout does nothing at inference), so they are one affine map: https://github.com/christophschuhmann/improved-aesthetic-predictor
- its `reluMSE` variant: the same with ReLU, which shifts the numbers to `layers.{0,3,6,9,11}`
- aesthetic predictor v2.5: five linear layers, `scoring_head.{0,2,4,6,8}`, no activation either
- one linear layer under any name (LAION v1, our own demo head)
- waifu-diffusion (`aes-B32-v0`): `fc1`, `fc2`, `fc3` with ReLU between and a sigmoid at the end
- CityAesthetics: `up` and `down`, with a residual block between; it takes embeddings of any length:
  https://github.com/city96/CityClassifiers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

LINEAR = "linear"
RELU = "relu"
WAIFU = "waifu"
CITY = "city"

# Names of a head's layers -> what stands between them. Any other numbering might hide an activation: refused rather
# than guessed.
_LAYOUTS: Mapping[tuple[str, ...], str] = {
    tuple(f"layers.{number}" for number in (0, 2, 4, 6, 7)): LINEAR,
    tuple(f"layers.{number}" for number in (0, 3, 6, 9, 11)): RELU,
    tuple(f"scoring_head.{number}" for number in (0, 2, 4, 6, 8)): LINEAR,
    ("fc1", "fc2", "fc3"): WAIFU,
    ("up.0", *(f"up.1.long.{number}" for number in (0, 2, 4)), *(f"down.{number}" for number in (0, 1, 4, 5))): CITY,
}


@dataclass(frozen=True)
class HeadLayout:
    """The layout of a head, from its keys and shapes.

    Attributes:
        layers: names of the linear layers, first to last (`weight` and `bias` under each; `""` is the top).
        width: length of the embedding it takes.
        kind: what stands between and after the layers: `linear` (nothing), `relu`, `waifu` or `city`.
    """

    layers: tuple[str, ...]
    width: int
    kind: str = LINEAR


@dataclass(frozen=True)
class Head:
    """A head ready to use: `layers` are (weight of shape out x in, bias of shape out), float32."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    kind: str = LINEAR

    @property
    def normalised(self) -> bool:
        """Whether it takes embeddings of length 1; else as the tower gives them."""
        return self.kind != CITY

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scores of shape N for `embeddings` of shape N x width."""
        import torch

        if self.kind == CITY:
            return _city(self.layers, embeddings)
        value = embeddings
        for number, layer in enumerate(self.layers):
            if number and self.kind != LINEAR:
                value = torch.relu(value)
            value = torch.nn.functional.linear(value, *layer)
        return (torch.sigmoid(value) if self.kind == WAIFU else value).squeeze(-1)

    def collapsed(self) -> Head:
        """The same head as one affine map if there is no activation between its layers, else itself."""
        if self.kind != LINEAR or len(self.layers) == 1:
            return self
        weight, bias = (tensor.double() for tensor in self.layers[0])
        for following, offset in self.layers[1:]:
            weight, bias = following.double() @ weight, following.double() @ bias + offset.double()
        return Head(((weight.float(), bias.float()),))


def _city(layers: Sequence[tuple[Tensor, Tensor]], embeddings: Tensor) -> Tensor:
    """`(tanh(down(relu(up + long(up)))) + 1) / 2`."""
    import torch
    from torch.nn.functional import leaky_relu, linear

    up, first, second, third, *down = layers
    raised = linear(embeddings, *up)
    long = leaky_relu(linear(raised, *first), 0.1)
    long = linear(leaky_relu(linear(long, *second), 0.1), *third)
    value = linear(linear(torch.relu(long + raised), *down[0]), *down[1])
    value = linear(linear(leaky_relu(value, 0.01), *down[2]), *down[3])
    return ((torch.tanh(value) + 1) / 2).squeeze(-1)


def head_layout(shapes: Mapping[str, Sequence[int]], where: str) -> HeadLayout:
    """The kind of head that has these tensors.

    Args:
        shapes: key -> shape.
        where: setting and path, for messages.

    Raises:
        ConfigError: no known layout, or layers that do not follow each other.
    """
    names, kind = _layers(shapes, where)
    width, size = shapes[_key(names[0], "weight")][-1], 0
    for name in names:
        weight, bias = tuple(shapes[_key(name, "weight")]), tuple(shapes[_key(name, "bias")])
        if len(weight) != 2 or bias != weight[:1] or (size and weight[1] != size):
            raise ConfigError(f"{where}: layer {name or 'weight'} has shape {weight}, bias {bias}; that is not a head")
        size = weight[0]
    if size != 1:
        raise ConfigError(f"{where}: it ends in {size} numbers, a head ends in one")
    return HeadLayout(names, width, kind)


def read_layout(file: WeightFile) -> HeadLayout:
    """The kind of head in a file; from the header alone for safetensors, without torch.

    Raises:
        ConfigError: absent, damaged, or not a head.
    """
    return head_layout(file.shapes(), f"{file.setting}: {file.path}")


def load_head(file: WeightFile) -> Head:
    """The head in a file, collapsed where that is exact.

    Raises:
        ConfigError: absent, damaged, not a head, or not finite.
    """
    return head_of(file.read(), f"{file.setting}: {file.path}")


def head_of(tensors: Mapping[str, Tensor], where: str) -> Head:
    """The head that these tensors are, collapsed where that is exact.

    Raises:
        ConfigError: not a head, or not finite.
    """
    layout = head_layout({key: tuple(tensor.shape) for key, tensor in tensors.items()}, where)
    layers = tuple((tensors[_key(n, "weight")].float(), tensors[_key(n, "bias")].float()) for n in layout.layers)
    if not all(bool(tensor.isfinite().all()) for layer in layers for tensor in layer):
        raise ConfigError(f"{where} holds NaN or infinity; fetch it again")
    return Head(layers, layout.kind).collapsed()


def _key(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _layers(shapes: Mapping[str, Sequence[int]], where: str) -> tuple[tuple[str, ...], str]:
    """Names of the layers, first to last, and what stands between them."""
    found = {key.rpartition(".")[0] for key in shapes if key.rpartition(".")[2] == "weight"}
    if set(shapes) == {_key(name, part) for name in found for part in ("weight", "bias")}:
        if len(found) == 1:
            return tuple(found), LINEAR
        for names, kind in _LAYOUTS.items():
            for prefix in {name.removesuffix(names[0]) for name in found if name.endswith(names[0])}:
                if found == {prefix + name for name in names}:
                    return tuple(prefix + name for name in names), kind
    raise ConfigError(
        f"{where} is not an aesthetic head this program knows; its tensors: {', '.join(sorted(shapes)[:8])}"
    )
