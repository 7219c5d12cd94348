"""The layers of a live pipeline that hold matrices and convolutions of a checkpoint, by the checkpoint's names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.imaging.pipelines.keymap import Home, homes, state_of
from bayes_merger.imaging.pipelines.pipeline import LivePipeline

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Layer:
    """A module whose weight is a tensor of the checkpoint, or some rows of one.

    Attributes:
        key: of the weight, as the checkpoint names it.
        module: a `Linear` or `Conv2d`.
        in_denoiser: whether it sees timesteps and guidance; text encoders do not.
        begin: its first row.
        rows: of the whole tensor.
        swapped: whether the checkpoint has the halves of its rows the other way round.
    """

    key: str
    module: Module
    in_denoiser: bool
    begin: int
    rows: int
    swapped: bool


def layers_of(pipeline: LivePipeline) -> list[Layer]:
    """The layers of a pipeline's denoiser and text encoders, as checkpoints name their weights."""
    architecture = pipeline.architecture
    return layers_in(architecture.model.modules, architecture.network, architecture.encoders)


def layers_in(modules: Mapping[str, Module], network: str, encoders: Collection[str]) -> list[Layer]:
    """The layers of a denoiser and of text encoders.

    Args:
        modules: all parts of the model by their names.
        network: that of the denoiser.
        encoders: those of the text encoders.
    """
    found = homes({part: state_of(module) for part, module in modules.items()})
    return [
        layer
        for key, home in found.items()
        if home.part in (network, *encoders) and not home.counterpart.transposed
        for layer in _layers_at(key, home, modules[home.part], home.part == network)
    ]


def _layers_at(key: str, home: Home, part: Module, in_denoiser: bool) -> Iterator[Layer]:
    import torch

    begin = 0
    for name, tensor in zip(home.names, home.tensors, strict=True):
        owner, _, parameter = name.rpartition(".")
        if parameter == "weight" and isinstance(module := part.get_submodule(owner), torch.nn.Linear | torch.nn.Conv2d):
            yield Layer(key, module, in_denoiser, begin, home.shape[0], home.counterpart.swapped)
        begin += tensor.shape[0] if tensor.dim() else 0
