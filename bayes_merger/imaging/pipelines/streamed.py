"""Networks whose weights are read from the model's file as each layer works, and forgotten when it has: what a model
answers is then seen in the memory of its largest layer.

They run on the CPU, once: whoever draws pictures wants `loading`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.config_trees import settings_for
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.imaging.pipelines.keymap import homes, in_module, state_of
from bayes_merger.imaging.pipelines.layout import number_positions, tensor_of
from bayes_merger.imaging.pipelines.loading import Source, check_shapes, places_of

_Read = Callable[[], Tensor]


def streamed_networks(
    model: Checkpoint, config: Path | None = None, dtype: torch.dtype = torch.float32, *, vae: bool = False
) -> dict[str, Module]:
    """The U-Net or transformer and the text encoders that a model has, by diffusers' names; it must stay open.

    Args:
        model: where the weights are read, again in each call of a network.
        config: a diffusers folder with its settings, for a model of unusual size.
        dtype: what its weights are computed in.
        vae: whether its VAE is wanted, too, which is then whole.

    Raises:
        CheckpointError: the model lacks tensors, or does not fit the config.
        ConfigError: the config is not valid.
    """
    name, source = model.architecture.name, Source.of(model)
    networks = {
        part: Module.to(network, dtype).eval()  # diffusers' own warns of layers that it keeps in fp32
        for part, network in empty_networks(settings_for(config, name, source.shapes, model.metadata)).items()
        if vae or part != "vae"
    }
    expected = homes({part: state_of(network) for part, network in networks.items()})
    places = places_of(expected, name, [source])
    check_shapes(model.path, places, expected, str(config or "the official config"))

    def reader(key: str, number: int) -> _Read:
        return lambda: in_module(expected[key], model.tensor(places[key][1]))[number].to(dtype).contiguous()

    for part, network in networks.items():
        # by the tensor itself: one that is tied to another has several names, of which the state has one
        readers = {
            id(tensor_of(network, own)): reader(key, number)
            for key, home in expected.items()
            if home.part == part
            for number, own in enumerate(home.names)
        }
        for layer in network.modules():
            _stream(layer, readers)
        number_positions(network, "cpu")
    return networks


def _stream(layer: Module, readers: Mapping[int, _Read]) -> None:
    """Let a layer have its own weights only while it works; whoever reads them from outside finds none, and fails."""
    empty = {
        name: tensor
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items())
        if tensor is not None and id(tensor) in readers
    }

    def fill(layer: Module, inputs: Any) -> None:
        for name, tensor in empty.items():
            read = readers[id(tensor)]()
            setattr(layer, name, Parameter(read, requires_grad=False) if isinstance(tensor, Parameter) else read)

    def forget(layer: Module, inputs: Any, answer: Any) -> None:
        for name, tensor in empty.items():
            setattr(layer, name, tensor)

    if empty:
        layer.register_forward_pre_hook(fill)
        layer.register_forward_hook(forget)
