"""What writing a merge takes, said beforehand: bytes, memory and time, from the files' headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.header import ITEM_SIZES
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.plan.routing import MergePlan

CHUNK = 2**19
"""Numbers that are merged, looked at and written at a time, where a method allows it: they stay in a core's cache."""
_MOVING = 0.35  # seconds per gigabyte that is read or written, on one core, the files in the system's cache
_DECOMPOSITION = 1.5e-10  # seconds per number and shorter side of its matrix


class Cost(NamedTuple):
    """What a method takes, measured on a pair or triple of full-size Stable Diffusion 1.5 models.

    Attributes:
        time: nanoseconds per merged number on one core, beside reading and writing.
        copies: of the largest tensor in fp32 that are in memory at once; 0 where tensors are worked on in pieces.
    """

    time: float
    copies: float = 0


# benchmarks/costs.py measures these.
_COSTS: Mapping[str, Cost] = {
    "weighted_sum": Cost(1),
    "n_average": Cost(2),
    "weighted_subtraction": Cost(1),
    "add_difference": Cost(1),
    "sum_twice": Cost(1),
    "triple_sum": Cost(1),
    "multiply_difference": Cost(6),
    "similarity_add_difference": Cost(3),
    "train_difference": Cost(1),
    "geometric_sum": Cost(4),
    "multiply_quotient": Cost(10),
    "clip": Cost(2),
    "tensor_sum": Cost(0, 1.1),
    "euclidean_add_difference": Cost(14, 3.5),
    "slerp": Cost(4, 2.5),
    "nuslerp": Cost(8, 4.5),
    "add_perpendicular": Cost(6, 3.6),
    "add_cosine_a": Cost(17, 5.2),
    "add_cosine_b": Cost(17, 5.2),
    "cosine_a": Cost(34, 5.6),
    "cosine_b": Cost(34, 5.6),
    "karcher": Cost(5, 2.5),
    "multislerp": Cost(7, 3.5),
    "model_stock": Cost(6, 3.5),
    "ram": Cost(7, 3.6),
    "dropout": Cost(9, 4),
    "breadcrumbs": Cost(12, 4.5),
    "ties": Cost(11, 4.7),
    "sce": Cost(20, 6.3),
    "arcee_fusion": Cost(43, 10),
    "smooth_add": Cost(44, 6.1),
    "crossover": Cost(46, 7.4),
    "della": Cost(85, 14),
    "distribution_crossover": Cost(145, 26),
    "top_k_tensor_sum": Cost(185, 9),
    "rotate": Cost(20, 12),
    "truncate_rank": Cost(20, 7),
}
_DECOMPOSING = ("rotate", "truncate_rank")  # whose time grows with the shorter side of a tensor, too


def cost_of(method: str) -> Cost:
    """What a method takes.

    Raises:
        KeyError: nobody has measured it.
    """
    return _COSTS[method]


def working_memory(planned: MergePlan) -> int:
    """Bytes that writing the merge takes beside the mapped files."""
    cost = _COSTS[planned.method.name]
    largest = max((math.prod(item.shape) for item in planned.items if item.action == "merge"), default=0)
    models = len(planned.method.models)
    pieces = 4 * min(largest, CHUNK) * (models + 1)
    named = len(method_spec(planned.method.name).models)
    return max(pieces, round(4 * largest * cost.copies * max(models, named) / named))


def result_size(planned: MergePlan) -> int:
    """Bytes of the tensors of the result."""
    return sum(math.prod(item.shape) * ITEM_SIZES[item.dtype] for item in planned.written)


def bytes_read(planned: MergePlan, checkpoints: Mapping[str, Checkpoint]) -> int:
    """Bytes of the models that are looked at."""

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
    cost, name = _COSTS[planned.method.name], planned.method.name
    moved = (bytes_read(planned, checkpoints) + result_size(planned)) / 1e9
    shapes = [item.shape for item in planned.items if item.action == "merge"]
    time = _MOVING * moved + cost.time * 1e-9 * sum(map(math.prod, shapes))
    if name in _DECOMPOSING:  # some 20 operations per number and shorter side
        time += _DECOMPOSITION * sum(math.prod(s) * min(s[0], math.prod(s[1:])) for s in shapes if s[1:])
    return time
