"""Single-file keys <-> tensors of live diffusers modules: a bijection, for every architecture.

The names are those of ``bayes_merger.checkpoints.naming``. Nearly every tensor of a single file is a view on a live
parameter, which is why a merged tensor can be written straight into it: 1x1 convolutions ``(C, C, 1, 1)`` that are
matrices in diffusers are reshaped, a projection is transposed, and what files stack in one tensor (queries, keys and
values) lies side by side in memory (``layout``). Where diffusers has swapped the halves of a tensor no view is
possible; such a tensor, two to four per transformer, is written to a copy that is brought over before the next picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.naming import PARTS, Counterpart, Naming
from bayes_merger.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Home", "LiveViews", "homes", "modules_of", "single_file_views", "state_of", "to_single_file"]


@dataclass(frozen=True)
class Home:
    """Where the numbers of a single file's tensor are in a model.

    Attributes:
        part: of the model, ``unet``, ``vae``, ...
        counterpart: how the tensor is made of those of the part.
        names: what diffusers calls these, in order.
        tensors: and they themselves.
    """

    part: str
    counterpart: Counterpart
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the single file's tensor."""
        return self.counterpart.shape([tuple(tensor.shape) for tensor in self.tensors])


def homes(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Home]:
    """Single-file key -> where its numbers are.

    Args:
        states: part -> name -> tensor, as diffusers names them.

    Raises:
        CheckpointError: a tensor that no architecture has.
    """
    naming = Naming.of({part: {n: tuple(t.shape) for n, t in state.items()} for part, state in states.items()})
    found = {}
    for part, state in states.items():
        for name in state:
            counterpart = naming.counterpart(part, name)
            if counterpart is not None and counterpart.key not in found:
                stack = counterpart.stack or (name,)
                found[counterpart.key] = Home(part, counterpart, stack, tuple(state[other] for other in stack))
    return found


def to_single_file(**states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of diffusers state dicts under the names and in the shapes of a single file.

    Args:
        states: part (``unet`` or ``transformer``, ``vae``, ``text_encoder``, ...) to its state dict, of any width.

    Returns:
        Views on the given tensors where that is possible: 1130 of them for SD1.5's topology. Call `.contiguous()`
        before saving with safetensors.

    Raises:
        CheckpointError: a tensor that no architecture has.
    """
    return {key: _whole(home) for key, home in homes(states).items()}


def _whole(home: Home) -> Tensor:
    tensor = home.tensors[0]
    if home.counterpart.stack or home.counterpart.swapped:
        import torch

        return torch.cat(home.tensors if home.counterpart.stack else tensor.chunk(2)[::-1])
    return _turned(home, tensor)


def single_file_views(pipe: Any, copies: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Single-file key -> a view, in the single file's shape, on the live parameter: write there to swap weights.

    A view that is kept silently goes stale as soon as a caller uses `.half()` or `.to()` on a module: see `LiveViews`.

    Args:
        pipe: a diffusers pipeline, or the modules of one.
        copies: what to write to where no view is possible.

    Raises:
        ConfigError: a module was offloaded, cast, moved or fused, so that what is written would be lost.
    """
    modules = modules_of(pipe)
    for part, module in modules.items():
        for name, layer in module.named_modules():
            if getattr(layer, "fused_projections", False):
                raise ConfigError(f"{part}.{name}: projections are fused; call unfuse_qkv_projections()")
    found = homes({part: state_of(module) for part, module in modules.items()})
    given = copies or {}
    return {key: given[key] if key in given else _view(key, home) for key, home in found.items()}


class LiveViews:
    """`single_file_views` of the same modules again and again, made anew only where a module has changed since."""

    def __init__(self, modules: Mapping[str, Module], copies: Mapping[str, Tensor]) -> None:
        """The arguments are those of `single_file_views`."""
        self._modules = modules
        self._copies = copies
        self._places: list[tuple[Any, ...]] = []
        self._views: dict[str, Tensor] = {}

    def now(self) -> dict[str, Tensor]:
        """Key of the naming table -> view.

        Raises:
            ConfigError: what is written would be lost.
        """
        places = [place for module in self._modules.values() for place in _places(module)]
        if places != self._places:
            self._views = single_file_views(self._modules, self._copies)
            self._places = places
        return self._views

    def forget(self) -> None:
        """Let go of the views, which keep the memory that they are on."""
        self._places, self._views = [], {}


def _places(module: Module) -> list[tuple[Any, ...]]:
    """What the views on a module depend on: its parts, and where and how their tensors lie in memory."""
    found: list[tuple[Any, ...]] = []
    waiting = [module]
    while waiting:
        layer = waiting.pop()
        found.append((id(layer), getattr(layer, "fused_projections", False)))
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is not None:
                found.append((tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()))
        waiting += filter(None, layer._modules.values())
    return found


def _view(key: str, home: Home) -> Tensor:
    first, end = home.tensors[0], home.tensors[0].data_ptr()
    for tensor in home.tensors:
        if tensor.is_meta:
            raise ConfigError(f"{key} is offloaded, a merge written there would be lost; remove the offloading")
        if len(home.tensors) > 1 and (tensor.data_ptr() != end or not tensor.is_contiguous()):
            raise ConfigError(f"{key} was moved or cast, a merge written there would be lost; leave the modules alone")
        end += tensor.nbytes
    if home.counterpart.stack:
        steps = (first[0].numel(), *first.stride()[1:])
        return first.as_strided(home.shape, steps)
    return _turned(home, first)


def in_module(home: Home, tensor: Tensor) -> tuple[Tensor, ...]:
    """A single file's tensor as the tensors of the part that it is made of; views on it where that is possible.

    Args:
        home: of the tensor.
        tensor: as many numbers as it has, in any shape that begins with its rows.
    """
    if home.counterpart.swapped:
        import torch

        return (torch.cat(tensor.chunk(2)[::-1]),)
    stacked = len(home.tensors) > 1
    pieces = tensor.split([each.shape[0] for each in home.tensors]) if stacked else (tensor,)
    turned = (piece.t() if home.counterpart.transposed else piece for piece in pieces)
    return tuple(piece.view(each.shape) for piece, each in zip(turned, home.tensors, strict=True))


def _turned(home: Home, tensor: Tensor) -> Tensor:
    turned = tensor.t() if home.counterpart.transposed else tensor
    return turned if len(home.shape) == turned.dim() else turned.view(home.shape)


def modules_of(pipe: Any) -> dict[str, Module]:
    """The parts of a pipeline that hold tensors of a single file."""
    if isinstance(pipe, Mapping):
        return dict(pipe)
    return {part: module for part in PARTS if (module := getattr(pipe, part, None)) is not None}


def state_of(module: Module) -> dict[str, Tensor]:
    """The live tensors of a module: its parameters, and the one buffer (of positions) that SD3 keeps in its file."""
    tensors = {name: tensor.detach() for name, tensor in module.named_parameters()}
    return tensors | {name: t.detach() for name, t in module.named_buffers() if not name.endswith("position_ids")}
