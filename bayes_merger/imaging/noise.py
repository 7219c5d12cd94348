"""The noise that pictures begin with and that samplers add, as web UIs draw it: picture by picture, in fp32.

What depends on a generator of the device would depend on the device. So noise comes from the CPU's generator (`cpu`),
or from the one that CUDA has, computed here (`nv`), which web UIs use on NVIDIA's cards unless told otherwise. The
first noise may be mixed with another seed's (a variation), and the noise of later steps may come from a seed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

RNGS = ("cpu", "nv")
_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
_UNIT = np.float64(np.float32(2.3283064e-10))  # curand's constants, in fp32
_TURN = np.float64(np.float32(2.3283064e-10 * 6.2831855))


class Philox:
    """The numbers of `torch.randn(..., device="cuda")`, but for the last bits, as web UIs compute them.

    Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), which CUDA calls with the
    place of a number and the count of calls, followed by the first half of a Box-Muller transform.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0

    def randn(self, shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Normal numbers, fp32; every call gives new ones."""
        count = int(np.prod(shape))
        places = np.arange(count, dtype=np.uint32)
        zeros = np.zeros(count, np.uint32)
        first, second = self._words(np.stack([np.full(count, self._calls, np.uint32), zeros, places, zeros]))
        self._calls += 1
        radius = np.sqrt(-2 * np.log(first * _UNIT + _UNIT / 2))
        normal: np.ndarray[Any, np.dtype[np.float32]] = (radius * np.sin(second * _TURN + _TURN / 2)).astype(np.float32)
        return normal.reshape(shape)

    def _words(self, counter: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The first two of the four random words that belong to each counter."""
        key = np.array([self._seed & 0xFFFFFFFF, self._seed >> 32 & 0xFFFFFFFF], np.uint32)
        for _ in range(_ROUNDS):
            products = counter[[0, 2]].astype(np.uint64) * _MULTIPLIERS
            high, low = (products >> np.uint64(32)).astype(np.uint32), products.astype(np.uint32)
            counter = np.stack([high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]])
            key = key + _KEY_STEPS
        return counter[0], counter[1]


def stream(rng: str, seed: int) -> Callable[[Sequence[int]], Tensor]:
    """Draws noise of a shape, fp32 on the CPU, with one generator of a kind of `RNGS`."""
    import torch

    if rng == "nv":
        philox = Philox(seed)
        return lambda shape: torch.from_numpy(philox.randn(shape))
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda shape: torch.randn(tuple(shape), generator=generator)


def mixed(strength: float, noise: Tensor, other: Tensor) -> Tensor:
    """Between two noises on the sphere, rows apart, as web UIs mix a variation.

    Args:
        strength: 0 is the first, 1 the other.
        noise: of shape `(channels, height, width)`.
        other: likewise.
    """
    import torch

    # sin((1 - s) w) / sin(w) * a  +  sin(s w) / sin(w) * b,  w the angle between a and b along the rows' axis
    dot = (noise / noise.norm(dim=1, keepdim=True) * (other / other.norm(dim=1, keepdim=True))).sum(1)
    if dot.mean() > 0.9995:
        return noise * strength + other * (1 - strength)
    angle = torch.acos(dot)
    shares = [torch.sin(part * angle) / torch.sin(angle) for part in (1 - strength, strength)]
    return shares[0].unsqueeze(1) * noise + shares[1].unsqueeze(1) * other


class PictureNoise:
    """The noise of one picture, call by call.

    Args:
        seed: of the picture.
        rng: one of `RNGS`.
        subseed: of the variation.
        strength: of the variation; 0 is none.
        delta: what is added to the seed after the first call; 0 goes on with the same generator.
    """

    def __init__(self, seed: int, rng: str = "cpu", *, subseed: int = 0, strength: float = 0.0, delta: int = 0) -> None:
        self._seed, self._rng, self._delta = seed, rng, delta
        self._subseed, self._strength = subseed, strength
        self._next = stream(rng, seed)
        self._begun = False

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """Noise of shape `(channels, height, width)`."""
        noise = self._next(shape)
        if self._begun:
            return noise
        self._begun = True
        if self._delta:
            self._next = stream(self._rng, self._seed + self._delta)
        return mixed(self._strength, noise, stream(self._rng, self._subseed)(shape)) if self._strength else noise


def answering(sources: Mapping[torch.Generator, PictureNoise]) -> AbstractContextManager[Any]:
    """While it is open, `torch.randn(1, ..., generator=g)` gives the next noise of `g`'s picture.

    diffusers' pipelines and schedulers draw all their noise with that call.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Answering(TorchFunctionMode):
        def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = dict(kwargs or {})
            source = sources.get(options["generator"]) if call is torch.randn and options.get("generator") else None
            if source is None:
                return call(*args, **options)
            shape = tuple(args[0] if isinstance(args[0], tuple | list | torch.Size) else args)
            return source(shape[1:]).reshape(shape).to(options.get("device"), options.get("dtype"))

    return Answering()
