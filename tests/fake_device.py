"""A GPU that is not there: tensors that say they are on it, and are computed by the CPU.

What a GPU refuses is refused: a tensor of the CPU's beside one of the GPU's, `.numpy()`, fp64 on Apple's MPS. What makes
the program wait for a GPU is counted. It stands where torch's `FakeTensorMode` stands, which knows no numbers, and so
are the few internals of torch that it needs. Kernels of attention are the plain ones, so last bits are others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}  # from one device to another
_MAY_MIX = _COPIES | {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}
_LOOKS = {_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default}


class _There(Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: Tensor
    named: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, named: torch.device) -> _There:
        make: Any = torch.Tensor._make_wrapper_subclass
        form = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        # to torch it is on CUDA, whatever it is called: of MPS it cannot be told not to look for it
        made: _There = make(cls, held.shape, device="cuda", **form)
        made.held, made.named = held, named
        return made

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{call}: after the device is gone")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.named

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()


class FakeDevice(TorchDispatchMode):
    """The device while it is there.

    Attributes:
        device: what it is called.
        waits: how often the CPU had to wait for it, or it for the CPU.
    """

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # torch then looks for no driver
        self.device = torch.device(name)
        self.waits = 0

    def _is_it(self, device: Any) -> bool:
        return device is not None and torch.device(device).type in (self.device.type, "cuda")

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if torch.is_inference_mode_enabled() and call._can_decompose():  # else torch has done it
            with self:
                return call.decompose(*args, **named)
        given = [one for one in tree_leaves((args, named)) if isinstance(one, Tensor)]
        there = [one for one in given if isinstance(one, _There)]
        here = [one for one in given if not isinstance(one, _There)]
        wanted = named.get("device")
        if not there and not self._is_it(wanted):
            return call(*args, **named)
        if there and any(one.dim() for one in here) and call not in _MAY_MIX:
            raise RuntimeError(f"{call}: expected all tensors on one device, found at least {self.device} and cpu")
        stays = there and not here and (wanted is None or self._is_it(wanted))
        self.waits += call in _LOOKS or (call in _COPIES and not stays)
        goes = isinstance(args[0], _There) if call is _aten.copy_.default else wanted is None or self._is_it(wanted)
        if self._is_it(wanted):
            named["device"] = torch.device("cpu")
        args, named = tree_map(_held, (args, named))
        made = call(*args, **named)
        if call is _aten._to_copy.default and made is args[0]:
            made = made.clone()
        known = {id(one.held): one for one in there} | {id(one): one for one in here}
        return tree_map(lambda one: self._named(call, one, known, goes), made)

    def _named(self, call: Any, made: Any, known: dict[int, Tensor], goes: bool) -> Any:
        if not isinstance(made, Tensor) or not (goes or id(made) in known):
            return made
        if id(made) in known:  # what was written to
            return known[id(made)]
        if self.device.type == "mps" and made.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{call}: the MPS framework doesn't support float64")
        with torch.inference_mode(False):  # views of parameters share their versions
            return _There(made, self.device)


def _held(one: Any) -> Any:
    return one.held if isinstance(one, _There) else one


def _free(_: torch.device) -> tuple[int, int]:
    return 2**33, 2**34


@contextmanager
def fake_device(name: str) -> Iterator[FakeDevice]:
    """While it is open, this machine has the device; a test is skipped where there is a real one.

    Args:
        name: ``cuda:0`` or ``mps:0``.
    """
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("here is a real GPU, with tests of its own")
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._ensureCUDADeviceGuardSet()
    torch.__future__.set_swap_module_params_on_conversion(True)  # of a module that moves, parameters become others
    torch._C._set_only_lift_cpu_tensors(True)  # a tensor of Python's numbers is made by the CPU and then moved
    try:
        with (
            mock.patch.multiple(torch.cuda, device_count=lambda: 1, synchronize=lambda _: None, mem_get_info=_free),
            mock.patch.object(torch.mps, "device_count", return_value=1),
            sdpa_kernel(SDPBackend.MATH),
            FakeDevice(name) as device,
        ):
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(False)


def read(tensor: Tensor) -> Tensor:
    """The numbers of a tensor, wherever it is."""
    found: Tensor = _held(tensor)
    return found
