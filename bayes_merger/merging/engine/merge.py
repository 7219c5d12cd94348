"""Merging: a stream of tensors, and into a file. (Into a live model: ``live.py``.)"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.checkpoints.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.engine.live import LiveMerge
from bayes_merger.merging.export.metadata import merge_metadata
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.plan.routing import SMALL_DTYPES, Checkpoints, PlanItem
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTED, adjusted
from bayes_merger.merging.recipe.recipe import MergePlan, MergeRecipe, numbers_of, plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["KeyMerger", "LiveMerge", "merge", "prepare", "save_merge"]


_CHUNK = 2**19  # numbers that are merged, looked at and written while they are in a core's cache
_READ = 2**23  # numbers of each file that are read before their memory is given back


class KeyMerger:
    """Makes the tensors of a merge, one after another, on the CPU.

    Args:
        planned: what happens to each of them.
        weights: of the merge, as ``plan`` has checked them.
        checkpoints: model name to opened file.
    """

    def __init__(self, planned: MergePlan, weights: BlockWeights, checkpoints: Checkpoints) -> None:
        from bayes_merger.merging.engine.combine import Scratch

        self._planned = planned
        self._weights = weights
        self._checkpoints = checkpoints
        self._scratch = Scratch()
        self._read = 0

    @cached_property
    def _method(self) -> MethodSpec:
        from bayes_merger.merging.engine.statistics import with_model_statistics

        return with_model_statistics(self._planned.method, self._checkpoints, self._planned.steps)

    def tensor(self, step: PlanItem, dtype: str = "") -> Tensor:
        """What a step of the plan makes; it may be mapped from a file: do not write to it.

        Args:
            step: one of the plan's that is written.
            dtype: of the result, as files name it, instead of the step's.
        """
        import torch

        name = dtype or step.dtype
        wanted = torch_dtypes()[name]
        if step.place.role == "position_ids":  # some mergers round or average them: they can only be 0, 1, 2, ...
            return torch.arange(math.prod(step.shape), dtype=wanted).reshape(step.shape)
        adjust = self._weights.get(ADJUST) if step.key in ADJUSTED else None
        if name in SMALL_DTYPES.values():
            return _small(step.key, self.tensor(step, "F32"), wanted)
        if name != "F32" and adjust:
            return self.tensor(step, "F32").to(wanted)
        if step.action == "merge":
            out = self._merged(step, torch.empty(step.shape, dtype=wanted))
        else:
            self._make_room(math.prod(step.shape))
            out = self._checkpoints[step.source].tensor(step.key).to(wanted)
        return adjusted(step.key, out, adjust, self._planned.architecture.name) if adjust else out

    def pieces(self, step: PlanItem) -> Iterator[Tensor]:
        """The same numbers, flat and in pieces; each may lie where the last one lay, which is then gone.

        New memory for every tensor would cost as much as the merge.
        """
        spec, name = self._method, step.dtype
        adjusts = step.key in ADJUSTED and self._weights.get(ADJUST)
        if step.action != "merge" or adjusts or name in SMALL_DTYPES.values():
            yield self.tensor(step).reshape(-1)
        elif spec.elementwise and spec.prepare is None and not step.common:
            yield from self._stretches(step, torch_dtypes()[name])
        else:
            room = self._room("made", math.prod(step.shape), torch_dtypes()[name])
            yield self._merged(step, room.view(step.shape)).view(-1)

    def _merged(self, step: PlanItem, out: Tensor) -> Tensor:
        """A tensor's merge, written into ``out``."""
        from bayes_merger.merging.engine.combine import combine, combine_channels

        spec, numbers = self._method, numbers_of(step, self._weights)
        sources = [self._checkpoints[model].tensor(step.key) for model in spec.models]
        if step.common:
            combine_channels(spec, sources, numbers, out, out.dtype, self._scratch, step.key, step.common)
        else:
            combine(spec, sources, numbers, out, out.dtype, self._scratch, step.key)
        self._make_room(out.numel())
        return out

    def _stretches(self, step: PlanItem, dtype: torch.dtype) -> Iterator[Tensor]:
        """A tensor's merge by a method to which a tensor is a row of numbers, so many at a time."""
        from bayes_merger.merging.engine.combine import combine

        spec, numbers = self._method, numbers_of(step, self._weights)
        models = [self._checkpoints[name] for name in spec.models]
        rows = [None if model.has_parts else model.tensor(step.key).view(-1) for model in models]
        count = math.prod(step.shape)
        for begin in range(0, count, _CHUNK):
            size = min(_CHUNK, count - begin)
            parts = [
                self._part(f"part {number}", model, step.key, begin, size) if row is None else row[begin : begin + size]
                for number, (model, row) in enumerate(zip(models, rows, strict=True))
            ]
            out = self._room("made", size, dtype)
            combine(spec, parts, numbers, out, dtype, self._scratch)
            yield out
            self._make_room(size)

    def _part(self, name: str, model: Checkpoint, key: str, begin: int, size: int) -> Tensor:
        out = self._room(name, size, torch_dtypes()[model.dtypes[key]])
        model.read_part(key, begin, out)
        return out

    def _room(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        import torch

        return self._scratch.flat(name, count, dtype, torch.device("cpu"))

    def _make_room(self, count: int) -> None:
        """Note that so many numbers of each file were read; give their pages back before they are too many."""
        self._read += count
        if self._read >= _READ:
            self._read = 0
            for checkpoint in self._checkpoints.values():
                checkpoint.release()


def _small(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in eight bits.

    Raises:
        CheckpointError: a number lies beyond them, which torch would turn into the largest that does not.
    """
    import torch

    most = torch.finfo(dtype).max
    if tensor.numel() and not float(tensor.abs().max()) <= most:
        raise CheckpointError(f"'{key}' holds numbers beyond {dtype}'s {most:g}; write it with dtype=fp16")
    return tensor.to(dtype)


def prepare(recipe: MergeRecipe, checkpoints: Checkpoints) -> tuple[MergePlan, KeyMerger]:
    """The plan of a merge and what makes its tensors.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """
    from bayes_merger.merging.engine.multi_step import unfold

    planned = plan(recipe, checkpoints)
    unfolded = unfold(recipe, checkpoints)
    unfolded.set(recipe)
    return planned, KeyMerger(planned, unfolded.last.weights, unfolded.models)


def merge(recipe: MergeRecipe, checkpoints: Checkpoints) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the merged model, one after another, on the CPU and in the recipe's dtype.

    A tensor that is kept as it is may be mapped from its file: do not write to it.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """
    planned, maker = prepare(recipe, checkpoints)
    return ((step.key, maker.tensor(step)) for step in planned.written)


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
        progress: told the bytes done and their total after every tensor.
        replace: whether a file that is already there may be replaced; a model of the merge never is.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``; the file cannot be written, or would hold NaN or infinity.
    """
    planned, maker = prepare(recipe, checkpoints)
    write_checkpoint(
        out,
        [TensorEntry(s.key, s.shape, s.dtype, partial(maker.pieces, s)) for s in planned.written],
        lambda: {**merge_metadata(recipe, planned, checkpoints), **(metadata or {})},
        inputs=[file for checkpoint in checkpoints.values() for file in checkpoint.files],
        replace=replace,
        progress=progress,
    )
