"""The memory that a run needs, from the shapes of its model, before anything is loaded; nothing is refused for it."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.scoring.scorer import Scorer

_NOT_DRAWN_WITH = "model_ema."


def model_bytes(model: Checkpoint, item_size: int) -> int:
    """Of the copy that draws, whose numbers have ``item_size`` bytes."""
    shapes = (shape for key, shape in model.shapes.items() if not key.startswith(_NOT_DRAWN_WITH))
    return item_size * sum(map(prod, shapes))


def judges_bytes(scorers: Iterable[Scorer]) -> int:
    """Of the scorers' models, as large as their files, each of which is loaded once."""
    files = {file.path for scorer in scorers for file in getattr(scorer, "files", ()) if file.is_here}
    return sum(path.stat().st_size for path in files)


def memory_words(model: int, judges: int, free: int, *, where: str, workers: int = 1) -> str:
    """What is needed and what is free, in a line.

    Args:
        model: bytes of the model that draws.
        judges: bytes of those that judge.
        free: bytes that are free now.
        where: the device.
        workers: processes, each of which has its own.
    """
    needs = [f"{model / 1e9:.2f} GB for the model that draws"]
    needs += [f"{judges / 1e9:.2f} GB for those that judge"] if judges else []
    each = f" in each of {workers} workers" if workers > 1 else ""
    tight = "" if workers * (model + judges) < free else (
        ": too little for all at once; smaller pictures, generator.max_batch=1, generator.dtype=fp16 and fewer scorers "
        "need less"
    )  # fmt: skip
    return f"memory: {', '.join(needs)}, and what pictures take{each}; {free / 1e9:.2f} GB are free on {where}{tight}"
