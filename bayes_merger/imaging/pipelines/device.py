"""Where a live pipeline is, and in which dtype."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError, printable

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
OFFLOAD = "text_encoders"
_OFFLOADS_THAT_LOSE = ("model", "sequential", "group", "cpu", "disk")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def check_place(device: str, dtype: str) -> None:
    """Check at start-up that a pipeline could be loaded there.

    Raises:
        ConfigError: the device does not exist on this machine, or the dtype is unknown.
    """
    dtype_of(dtype, device_of(device))


def check_offload(mode: str | None) -> None:
    """Check that what is merged is not lost by the way in which memory is saved.

    Raises:
        ConfigError: it would be, or there is no such way.
    """
    if mode not in (None, OFFLOAD):
        lost = "moves the networks piece by piece, so that what is merged would be lost"
        why = lost if mode in _OFFLOADS_THAT_LOSE else "is no way to save memory"
        raise ConfigError(f"generator.offload: {printable(repr(mode))} {why}; give {OFFLOAD}, or null")


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: it does not exist on this machine.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}[device.type]
    except (RuntimeError, KeyError):
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu, cuda, cuda:1 or mps") from None
    if (device.index or 0) >= count:
        kind = device.type.upper()
        raise ConfigError(f"device: no {name} on this machine ({count} {kind} devices); use device=auto or cpu")
    return device


def dtype_of(name: str, device: torch.device, half: str = "fp16") -> torch.dtype:
    """The dtype of that name; `auto` is fp32 on the CPU and ``half`` elsewhere.

    Raises:
        ConfigError: it is unknown.
    """
    import torch

    if name == "auto":
        name = "fp32" if device.type == "cpu" else half
    if name not in DTYPES:
        raise ConfigError(f"dtype: {name!r} is not a dtype; use auto, {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def free_memory(device: torch.device) -> None:
    """Give back what torch keeps of a GPU's memory for later."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Keep the memory of one layer's output for the next layers', where they are computed on the CPU.

    By default glibc gives large blocks back to the system as soon as they are free, and the system clears every page
    that is used anew: an eighth of the time of a trial. What a process keeps is no more than it has once needed. See
    https://man7.org/linux/man-pages/man3/mallopt.3.html; other systems' allocators keep it anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
