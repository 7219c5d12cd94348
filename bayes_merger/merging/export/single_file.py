"""A merge as one safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.merging.engine.merge import prepare
from bayes_merger.merging.export.metadata import merge_metadata
from bayes_merger.merging.plan.routing import Checkpoints
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.saliency.opening import seen_files


def save_merge(
    recipe: MergeRecipe,
    checkpoints: Checkpoints,
    out: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    replace: bool = False,
) -> None:
    """Write the merged model as a safetensors file that other programs load; the same recipe gives the same bytes.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.
        out: the file to write.
        metadata: texts to add to the file's own.
        progress: called with the bytes done and their total after every tensor.
        replace: whether a file that is already there may be replaced; a model of the merge never is.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``; the file cannot be written, or would hold NaN or infinity.
    """
    files = seen_files(recipe.activation_files)
    planned, merger = prepare(recipe, checkpoints)
    write_checkpoint(
        out,
        [TensorEntry(s.key, s.shape, s.dtype, partial(merger.pieces, s)) for s in planned.written],
        lambda: {**merge_metadata(recipe, planned, checkpoints), **(metadata or {})},
        inputs=(*checkpoints.values(), *files),
        replace=replace,
        progress=progress,
    )
