"""Computes the tensors of a merge, one after another, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.checkpoints.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.checkpoints.writing import not_finite
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.plan.costs import CHUNK
from bayes_merger.merging.plan.planning import numbers_of
from bayes_merger.merging.plan.routing import SMALL_DTYPES, Checkpoints, MergePlan, PlanItem
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTED, adjusted
from bayes_merger.merging.saliency.weights import row_width

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_READ = 2**23  # numbers read of each file before its pages are released


class KeyMerger:
    """Computes the tensors of a merge, one after another, on the CPU.

    Args:
        planned: what happens to each tensor.
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

        return with_model_statistics(self._planned.method, self._checkpoints, self._planned.items)

    def tensor(self, item: PlanItem, dtype: str = "") -> Tensor:
        """The tensor of a plan's item; it may be mapped from a file: do not write to it.

        Args:
            item: one of those that are written.
            dtype: of the result, by its name in files, instead of the item's.
        """
        import torch

        name = dtype or item.dtype
        wanted = torch_dtypes()[name]
        if item.place.role == "position_ids":  # other mergers round or average them: they must be 0, 1, 2, ...
            return torch.arange(math.prod(item.shape), dtype=wanted).reshape(item.shape)
        adjust = self._weights.get(ADJUST) if item.key in ADJUSTED else None
        if name in SMALL_DTYPES.values():
            return _in_8_bits(item.key, self.tensor(item, "F32"), wanted)
        if name != "F32" and adjust:
            return self.tensor(item, "F32").to(wanted)
        if item.action == "merge":
            out = self._merged(item, torch.empty(item.shape, dtype=wanted))
        else:
            self._count_read(math.prod(item.shape))
            out = self._checkpoints[item.source].tensor(item.key).to(wanted)
        return adjusted(item.key, out, adjust, self._planned.architecture.name) if adjust else out

    def pieces(self, item: PlanItem) -> Iterator[Tensor]:
        """The same numbers, flat and in pieces; each piece may overwrite the one before.

        Allocating memory for every tensor would cost as much as the merge.
        """
        spec, name = self._method, item.dtype
        adjusts = item.key in ADJUSTED and self._weights.get(ADJUST)
        if item.action != "merge" or adjusts or name in SMALL_DTYPES.values():
            yield self.tensor(item).reshape(-1)
        elif spec.elementwise and spec.prepare is None and not item.common:
            yield from self._chunks(item, torch_dtypes()[name])
        else:
            buffer = self._buffer("made", math.prod(item.shape), torch_dtypes()[name])
            yield self._merged(item, buffer.view(item.shape)).view(-1)

    def _merged(self, item: PlanItem, out: Tensor) -> Tensor:
        """A tensor's merge, written into ``out``."""
        from bayes_merger.merging.engine.combine import combine, combine_channels

        spec, weights = self._method, self._planned.weights_of(item, numbers_of(item, self._weights))
        sources = [self._checkpoints[model].tensor(item.key) for model in spec.models]
        self._check_finite(item, sources)
        if item.common:
            combine_channels(spec, sources, weights, out, out.dtype, self._scratch, item.key, item.common)
        else:
            combine(spec, sources, weights, out, out.dtype, self._scratch, item.key)
        self._count_read(out.numel())
        return out

    def _chunks(self, item: PlanItem, dtype: torch.dtype) -> Iterator[Tensor]:
        """A tensor's merge by a method to which a tensor is a row of numbers, so many at a time."""
        from bayes_merger.merging.engine.combine import combine

        spec, weights = self._method, self._planned.weights_of(item, numbers_of(item, self._weights))
        models = [self._checkpoints[name] for name in spec.models]
        rows = [None if model.has_parts else model.tensor(item.key).view(-1) for model in models]
        count, width = math.prod(item.shape), row_width(weights)
        step = max(1, CHUNK // width) * width
        for begin in range(0, count, step):
            size = min(step, count - begin)
            parts = [
                self._part(f"part {number}", model, item.key, begin, size) if row is None else row[begin : begin + size]
                for number, (model, row) in enumerate(zip(models, rows, strict=True))
            ]
            self._check_finite(item, parts)
            out = self._buffer("made", size, dtype)
            combine(spec, parts, weights, out, dtype, self._scratch, begin=begin)
            yield out
            self._count_read(size)

    def _check_finite(self, item: PlanItem, sources: Sequence[Tensor]) -> None:
        """Refuse NaN and infinity in what is read of the models, where the result may not show them.

        Raises:
            CheckpointError: a model holds such a number.
        """
        from bayes_merger.checkpoints.nonfinite import check_model

        for name, source in zip(self._method.models, () if self._method.linear else sources, strict=False):
            check_model(self._checkpoints[name].path, item.key, source)

    def _part(self, name: str, model: Checkpoint, key: str, begin: int, size: int) -> Tensor:
        out = self._buffer(name, size, torch_dtypes()[model.dtypes[key]])
        model.read_part(key, begin, out)
        return out

    def _buffer(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        import torch

        return self._scratch.room(name, (count,), dtype, torch.device("cpu"))

    def _count_read(self, count: int) -> None:
        """Count what was read of each file; release its pages before they take too much memory."""
        self._read += count
        if self._read >= _READ:
            self._read = 0
            for checkpoint in self._checkpoints.values():
                checkpoint.release()


def _in_8_bits(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in eight bits.

    Raises:
        CheckpointError: a number is out of range, or infinite; torch would silently clamp it.
    """
    import torch

    from bayes_merger.checkpoints.nonfinite import find_nonfinite

    if fault := find_nonfinite(tensor):
        raise not_finite(key, fault)
    most = torch.finfo(dtype).max
    if tensor.numel() and float(tensor.abs().max()) > most:
        raise CheckpointError(f"'{key}' holds numbers beyond {dtype}'s {most:g}; write it with dtype=fp16")
    return tensor.to(dtype)
