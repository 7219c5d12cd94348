"""The live parameters contiguous in memory, in the order of the single file.

A block of a model is then one span of memory, and a merge can write it in a few calls instead of hundreds.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from bayes_merger.imaging.pipelines.keymap import HasModules, single_file_views

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Parameter

_ALIGNMENT = 64  # bytes: a cache line, the alignment that matrix kernels expect


def lay_side_by_side(pipe: HasModules) -> None:
    """Move the parameters of all modules into one span of memory per device and dtype; no number changes.

    The parameters stay the objects that they are, and each begins at an aligned address.

    Args:
        pipe: its modules must not share parameters.
    """
    import torch

    owners = {
        parameter.data_ptr(): parameter
        for module in (pipe.unet, pipe.vae, pipe.text_encoder)
        for parameter in module.parameters()
        if parameter.numel() and parameter.is_contiguous()
    }
    stretches: dict[tuple[torch.device, torch.dtype], list[Parameter]] = defaultdict(list)
    for _, view in sorted(single_file_views(pipe).items()):
        parameter = owners.get(view.data_ptr())
        if parameter is not None and parameter.numel() == view.numel():
            stretches[view.device, view.dtype].append(parameter)
    with torch.no_grad():
        for parameters in stretches.values():
            _move(parameters)


def _move(parameters: list[Parameter]) -> None:
    first = parameters[0]
    room = [_room(parameter) for parameter in parameters]
    stretch = first.new_empty(sum(room))
    begin = 0
    for parameter, size in zip(parameters, room, strict=True):
        place = stretch[begin : begin + parameter.numel()].view(parameter.shape)
        parameter.data = place.copy_(parameter)
        begin += size


def _room(tensor: Tensor) -> int:
    """Count of numbers, padded so that the next parameter is aligned."""
    step = _ALIGNMENT // tensor.element_size()
    return -(-tensor.numel() // step) * step
