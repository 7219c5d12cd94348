"""A writer that waits before each of its tensors, for tests/checkpoints/test_writing.py."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.errors import CheckpointError


def slowly() -> torch.Tensor:
    """Say so and go on when told to."""
    print("writing", flush=True)
    sys.stdin.readline()
    return torch.ones(100_000)


def write(out: Path, largest: int = resource.RLIM_INFINITY) -> None:
    """Twenty tensors to ``out``, where no file may be larger than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        write_checkpoint(out, [TensorEntry(f"{number:03d}", (100_000,), "F32", slowly) for number in range(20)])
    except CheckpointError as error:
        print(error)
