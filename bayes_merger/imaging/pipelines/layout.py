"""The memory of live modules: each part contiguous, in the order of the single file.

A block of a model is then one span of memory, and a merge can write it in a few calls instead of hundreds; what files
stack in one tensor is one; and a part moves between devices as a whole, without losing either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bayes_merger.imaging.pipelines.keymap import homes, state_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

_ALIGNMENT = 64  # bytes: a cache line, the alignment that matrix kernels expect


Dtypes = Callable[[str, str], "torch.dtype"]
"""From a part and the name of one of its tensors to the dtype that it is kept in."""


@dataclass
class _Span:
    """The memory of a part in one dtype, and where each of its tensors begins."""

    memory: Tensor
    tensors: list[tuple[Tensor, int]]


class LiveMemory:
    """The memory of some modules, whose tensors stay the objects that they are.

    Attributes:
        copies: single-file key to what a merge writes where diffusers has swapped the halves of a tensor.
    """

    def __init__(self, modules: Mapping[str, Module], device: torch.device | str, dtype_of: Dtypes) -> None:
        """Give modules on the meta device memory, unfilled.

        Args:
            modules: part to module, all of one model.
            device: where.
            dtype_of: what in.
        """
        import torch

        found = homes({part: state_of(module) for part, module in modules.items()})
        order: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for _, home in sorted(found.items()):
            order[home.part].append(home.names)
        self._spans = {
            part: _allocate(module, order[part], torch.device(device), partial(dtype_of, part))
            for part, module in modules.items()
        }
        self._swapped = {
            key: modules[home.part].get_parameter(home.names[0])
            for key, home in found.items()
            if home.counterpart.swapped
        }
        self.copies = {key: torch.empty_like(parameter) for key, parameter in self._swapped.items()}

    def settle(self) -> None:
        """Bring what was written to the copies over to the parameters."""
        for key, parameter in self._swapped.items():
            first, second = self.copies[key].chunk(2)
            parameter[: len(second)].copy_(second)
            parameter[len(second) :].copy_(first)

    def move(self, part: str, device: torch.device | str) -> None:
        """Move a part to another device."""
        for span in self._spans.get(part, ()):
            span.memory = span.memory.to(device, copy=True)
            for tensor, begin in span.tensors:
                tensor.data = span.memory[begin : begin + tensor.numel()].view(tensor.shape)


def _allocate(
    module: Module, order: list[tuple[str, ...]], device: torch.device, dtype_of: Callable[[str], torch.dtype]
) -> list[_Span]:
    """Memory for a module on the meta device, tensor by tensor; those of a group without a gap."""
    import torch

    places: dict[int, list[tuple[Module, str]]] = defaultdict(list)  # a tensor may have several names
    for holder in module.modules():
        for name, tensor in (*holder._parameters.items(), *holder._buffers.items()):
            places[id(tensor)].append((holder, name))
    sizes: dict[torch.dtype, int] = defaultdict(int)
    begins: list[tuple[str, torch.dtype, int]] = []
    for names in order:
        for name in names:
            dtype = dtype_of(name)
            begins.append((name, dtype, sizes[dtype]))
            sizes[dtype] += tensor_of(module, name).numel()
        step = _ALIGNMENT // dtype.itemsize
        sizes[dtype] = -(-sizes[dtype] // step) * step
    spans = {dtype: _Span(torch.empty(size, dtype=dtype, device=device), []) for dtype, size in sizes.items()}
    for name, dtype, begin in begins:
        empty = tensor_of(module, name)
        tensor = spans[dtype].memory[begin : begin + empty.numel()].view(empty.shape)
        if isinstance(empty, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=False)
        spans[dtype].tensors.append((tensor, begin))
        for holder, own in places[id(empty)]:
            setattr(holder, own, tensor)
    number_positions(module, device)
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise NotImplementedError(f"{type(module).__name__}.{path}: no rule for this tensor")
    return list(spans.values())


def tensor_of(module: Module, name: str) -> Tensor:
    """A parameter or buffer, by the name that it has in the state of a module."""
    holder = module.get_submodule(name.rpartition(".")[0])
    found: Tensor = getattr(holder, name.rpartition(".")[2])
    return found


def number_positions(module: Module, device: torch.device | str) -> None:
    """Fill the buffers of a module on the meta device that hold 0, 1, 2, ...: files need not have them."""
    import torch

    for path, tensor in module.named_buffers():
        if tensor.is_meta and path.endswith("position_ids"):
            holder = module.get_submodule(path.rpartition(".")[0])
            holder.position_ids = torch.arange(tensor.shape[-1], device=device).expand(tensor.shape)
