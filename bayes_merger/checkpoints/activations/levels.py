"""How much goes on in the parts of a model, by a file of activations: a number for each cell of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.blocks import Architecture

Cells = Mapping[tuple[str, str], float]
"""Row and column -> the mean of log2 over its weights."""

ANSWERS, INPUT = ("guided_out", "gradient_out"), ("in_sq",)
"""Statistics of what weights answer with, and of what they are fed."""


def levels(file: Sidecar, architecture: Architecture, column: Callable[[str], str], kinds: Sequence[str]) -> Cells:
    """The mean over weights and channels of log2 of the RMS of a statistic, or of a plain saliency, block by block.

    Args:
        file: an opened one.
        architecture: of its model.
        column: from a weight's name to the column that it belongs to.
        kinds: statistics, of which the first that a weight has counts; a plain file has none.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for key, statistics in file.statistics.items():
        block = architecture.place(key).block
        value = _level(file, key, [kind for kind in kinds if kind in statistics])
        if block and value is not None:
            found.setdefault((block, column(key)), []).append(value)
    return {cell: sum(values) / len(values) for cell, values in found.items()}


def _level(file: Sidecar, key: str, statistics: Sequence[str]) -> float | None:
    if file.about is None:
        numbers = file.shown(key)
    elif not statistics:
        return None
    else:
        numbers = file.shown(key, statistics[0]) ** 0.5
    numbers = numbers[numbers > 0]
    return float(np.log2(numbers).mean()) if numbers.size else None
