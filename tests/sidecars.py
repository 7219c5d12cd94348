"""Files of activations as tests need them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.activations.names import METADATA

RUN = {"id": "one", "payload": "fox", "pictures": 2, "prompts": "p", "seeds": [1, 2]}
STATISTICS = ("in_sq", "in_abs", "guided_in", "guided_out")


def measured(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    seed: int = 0,
    *,
    change: Mapping[str, torch.Tensor | None] | None = None,
    **about: Any,
) -> Path:
    """A measured file with random positive statistics for weights of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor | None] = {}
    for key, shape in shapes.items():
        for statistic in STATISTICS:
            width = shape[0] if statistic == "guided_out" else shape[1]
            tensors[f"{key}|{statistic}"] = torch.rand(2, width, generator=generator) + 0.01
        tensors[f"{key}|n"] = torch.tensor([3.0, 1.0], dtype=torch.float64)
        tensors[f"{key}|guided_n"] = torch.tensor([1.0, 1.0], dtype=torch.float64)
        tensors[f"{key}|by_run"] = torch.ones(1, 2)
    tensors |= dict(change or {})
    table = {"version": 1, "model": "0" * 64, "architecture": "sd1", "bands": 2, "runs": [RUN], **about}
    save_file({k: t for k, t in tensors.items() if t is not None}, path, {METADATA: json.dumps(table)})
    return path
