"""Live models as tensors of every kind of memory, and what a full merge writes into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bayes_merger.merging import Checkpoint, LiveMerge, MergeSettings
from tests.merging.tiny_models import SHAPES

Weights = Mapping[str, Mapping[str, float]]
Make = Callable[[tuple[int, ...], torch.dtype], Tensor]


def plain(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(shape, 7, dtype=dtype)


def transposed(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(shape[::-1], 7, dtype=dtype).permute(tuple(range(len(shape)))[::-1])


def strided(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full((*shape, 3), 7, dtype=dtype)[..., 1]


def shifted(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A view on a larger parameter that begins at an odd place."""
    count = int(torch.tensor(shape).prod()) if shape else 1
    return torch.full((count + 5,), 7, dtype=dtype)[3 : 3 + count].view(shape)


def parameter(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.nn.Parameter(torch.full(shape, 7, dtype=dtype))


def live(make: Make, dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: make(shape, dtype) for key, shape in SHAPES.items()}


def full(models: Mapping[str, Checkpoint], method: str, weights: Weights, options: dict[str, str]) -> dict[str, Tensor]:
    destinations = live(plain, torch.float32)
    LiveMerge(models, MergeSettings(method, options=options), memory=0).apply(weights, destinations)
    return destinations


def equal(destinations: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(out, expected[key].to(out.dtype)) for key, out in destinations.items())
