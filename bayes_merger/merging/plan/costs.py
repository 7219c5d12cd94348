"""Estimates before a merge is written: bytes, memory and time, from the files' headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.header import ITEM_SIZES
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.plan.routing import MergePlan

CHUNK = 2**19
"""Numbers that are merged, looked at and written at a time, where a method allows it: they stay in a core's cache."""
_MOVING = 0.35  # seconds per gigabyte that is read or written, on one core, the files in the system's cache
_DECOMPOSITION = 1.5e-10  # seconds per number and shorter side of its matrix


def working_memory(planned: MergePlan) -> int:
    """Bytes of memory that writing the merge needs beside the mapped files."""
    cost = planned.method.cost
    largest = max((math.prod(item.shape) for item in planned.items if item.action == "merge"), default=0)
    models = len(planned.method.models)
    pieces = 4 * min(largest, CHUNK) * (models + 1)
    named = len(method_spec(planned.method.name).models)
    return max(pieces, round(4 * largest * cost.copies * max(models, named) / named))


def result_size(planned: MergePlan) -> int:
    """Bytes of the tensors of the result."""
    return sum(math.prod(item.shape) * ITEM_SIZES[item.dtype] for item in planned.written)


def bytes_read(planned: MergePlan, checkpoints: Mapping[str, Checkpoint]) -> int:
    """Bytes of the models that are read."""

    def size(checkpoint: Checkpoint, key: str) -> int:
        return math.prod(checkpoint.shapes[key]) * ITEM_SIZES[checkpoint.stored[key]]

    keys = {item.key for item in planned.written if item.action == "merge"}
    merged = sum(size(model, key) for model in checkpoints.values() for key in keys & model.shapes.keys())
    return merged + sum(
        max((size(model, item.key) for model in checkpoints.values() if item.key in model.shapes), default=0)
        for item in planned.written
        if item.action != "merge"
    )


def seconds(planned: MergePlan, checkpoints: Mapping[str, Checkpoint]) -> float:
    """How long writing the merge takes on one CPU core with a fast disk, to within a small factor."""
    cost = planned.method.cost
    moved = (bytes_read(planned, checkpoints) + result_size(planned)) / 1e9
    shapes = [item.shape for item in planned.items if item.action == "merge"]
    time = _MOVING * moved + cost.time * 1e-9 * sum(map(math.prod, shapes))
    if cost.decomposes:  # some 20 operations per number and shorter side
        time += _DECOMPOSITION * sum(math.prod(s) * min(s[0], math.prod(s[1:])) for s in shapes if s[1:])
    return time
