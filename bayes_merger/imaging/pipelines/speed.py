"""How fast a network runs: compiled or as it is, and with which kernels of attention.

All of it changes the last bits of a picture and no more; a study keeps to one way.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.imaging.pipelines.device import device_of, dtype_of

if TYPE_CHECKING:
    import torch

ATTENTION = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}
"""Our names -> those of torch; `auto` leaves it to torch, which takes the fastest that the device has."""

_COMPILERS = ("c++", "g++", "clang++")


def check_speed(attention: str, compiled: bool, device: str, dtype: str, half: str) -> None:
    """Check at start-up that a network could be run so.

    Args:
        attention: kernels of attention.
        compiled: whether the network is compiled.
        device: where it is.
        dtype: what it computes in.
        half: the dtype that `auto` stands for on a GPU.

    Raises:
        ConfigError: there are no such kernels, or nothing to compile with.
    """
    if attention != "auto" and attention not in ATTENTION:
        raise ConfigError(f"generator.attention: no {attention!r}; {nearest(attention, ['auto', *ATTENTION])}")
    if attention != "auto":
        _check_attention(attention, device_of(device), dtype_of(dtype, device_of(device), half))
    if compiled:
        _check_compiler(device_of(device).type)


def _check_compiler(device: str) -> None:
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS))):
        raise ConfigError("generator.compile: needs a C++ compiler such as g++, and there is none; set it to false")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("generator.compile: needs triton, which is not installed; set it to false")
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"generator.compile: is for CUDA and the CPU, not for {device}; set it to false")


def _check_attention(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    import torch

    some = torch.zeros(1, 1, 8, 64, device=device, dtype=dtype)
    try:
        with attending(attention), torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(some, some, some)
    except RuntimeError as error:
        kind = str(dtype).removeprefix("torch.")
        raise ConfigError(f"generator.attention: no {attention!r} for {kind} on {device.type}; use auto") from error


def attending(attention: str) -> AbstractContextManager[None]:
    """Kernels of attention that are used inside this block."""
    if attention == "auto":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(getattr(SDPBackend, ATTENTION[attention]))


def make_fast(network: Any, *, compiled: bool) -> None:
    """Make a network ready to draw often: compiled, or on the CPU a few tokens at a time where layers are wide.

    Args:
        network: changed in place; its parameters keep their names, and pictures all their bits unless it is compiled.
        compiled: whether it is.
    """
    from bayes_merger.imaging.pipelines.lean import make_lean

    if compiled:
        compile_network(network)
    elif network.device.type == "cpu":
        make_lean(network)


def compile_network(network: Any, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile a network, when it is first called and once for each size of pictures or batches of one.

    What is merged is written into the parameters, which a compiled graph reads anew at every call, as long as they stay
    where they are: no merge is a reason to compile again. Inductor's `freezing` would take them for constants.

    Args:
        network: compiled in place, so that its parameters keep their names.
        backend: of ``torch.compile``.
    """
    network.compile(backend=backend)
