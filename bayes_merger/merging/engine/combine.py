"""One method applied to the tensors of one key: computed in fp32, rounded once, written into existing memory.

Files and live models go through this one function with the same pieces, so that they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor

from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.parameters import Prepared, Weight
from bayes_merger.merging.saliency.weights import Buffer, TensorWeight, Weights, row_width, vary, weights_by_rows

_CPU_PIECE = 2**18  # bytes in the dtype that is computed in, for each thread; half a dozen stay in a core's cache
_GPU_PIECE = 2**28  # launches cost more than cache misses there

Make = Callable[[], Prepared]


class Scratch:
    """Reusable buffers, one per name: each grows to the largest request and stays allocated."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._views: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}  # pieces have mostly one shape

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Numbers to write into; they still hold what the last user of this name wrote."""
        key = (name, dtype, device)
        view = self._views.get(key)
        if view is not None and view.shape == shape:
            return view
        buffer, count = self._buffers.get(key), math.prod(shape)
        if buffer is None or buffer.numel() < count:
            self._views.pop(key, None)
            self._buffers.pop(key, None)  # free it before allocating another
            del view, buffer
            buffer = self._buffers[key] = torch.empty(count, dtype=dtype, device=device)
        view = self._views[key] = buffer[:count].view(shape)
        return view


def combine(
    spec: MethodSpec,
    sources: Sequence[Tensor],
    weights: Weights,
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
    key: str = "",
    cache: Callable[[Make], Prepared] | None = None,
    begin: int = 0,
) -> None:
    """Write the merge of ``sources`` into ``out``.

    Args:
        spec: the method.
        sources: one contiguous tensor per model, of one shape and on one device, where it is computed, of any float
            dtypes; only read.
        weights: weight name to number, or to a number for each place.
        out: Tensor of the same shape, any float dtype and strides, on any device.
        dtype: what the result is rounded to before it is widened to ``out``'s.
        scratch: reused memory.
        key: name of the tensor, for methods that need it.
        cache: calls the function it is given, or returns what an earlier call made from the same inputs.
        begin: of the tensor's numbers, the first that is given, where only a part of them is; of whole rows where
            weights differ from place to place.
    """
    if out.numel() == 0:
        return
    if not out.is_contiguous() or out.device != sources[0].device:
        whole = scratch.room("whole", out.shape, dtype, sources[0].device)
        combine(spec, sources, weights, whole, dtype, scratch, key, cache, begin)
        out.copy_(whole)
        return
    if spec.fused:
        _lerp(sources, weights["alpha"], out, dtype, scratch, begin)
        return
    extra: dict[str, object] = {"key": key} if spec.keyed else {}
    if spec.prepare is not None:
        make = _first_stage(spec, sources, weights, scratch, key)
        extra["prepared"] = cache(make) if cache else make()
    if spec.elementwise:
        _combine_pieces(spec, sources, weights, out.view(-1), dtype, scratch, extra, begin)
        return
    width = row_width(weights)
    rows = out.numel() // width
    table = next(weights_by_rows(weights, slice(0, rows), 1, _buffer_on(out.device, scratch)), {})
    given = {
        name: weight.expand(rows, width).reshape(out.shape) if isinstance(weight, Tensor) else weight
        for name, weight in table.items()
    }
    if spec.selects and len({source.dtype for source in sources}) == 1:
        _round_into(out, spec.function(*sources, **given, **extra), dtype, scratch)
    else:
        _round_into(out, spec.function(*_read(spec, sources, scratch), **given, **extra), dtype, scratch)


def _buffer_on(device: torch.device, scratch: Scratch) -> Buffer:
    return lambda name: lambda shape, dtype: scratch.room(f"weight {name}", shape, dtype, device)


def _number(weight: float | TensorWeight) -> float:
    """A weight that is known to be a number."""
    assert not isinstance(weight, TensorWeight)
    return weight


def _first_stage(spec: MethodSpec, sources: Sequence[Tensor], weights: Weights, scratch: Scratch, key: str) -> Make:
    numbers = {name: _number(weights[name]) for name in spec.prepared_by}

    def make() -> Prepared:
        wide = _in_fp32("source", sources, scratch)
        scratch_addresses = {tensor.untyped_storage().data_ptr() for tensor in wide}
        # What is cached must not lie in a buffer that the next tensor overwrites.
        return tuple(
            part.clone()
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() in scratch_addresses
            else part
            for part in spec.prepared(wide, numbers, key) or ()
        )

    return make


def _combine_pieces(
    spec: MethodSpec,
    sources: Sequence[Tensor],
    weights: Weights,
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
    extra: dict[str, object],
    offset: int,
) -> None:
    width = row_width(weights)
    form = (-1, width) if vary(weights) else (-1,)
    first, count = offset // width, out.numel() // width
    pieces = _pieces(count, width * 4, out.device)
    targets, *models = (tensor.view(form).chunk(pieces) for tensor in (out, *sources))
    rows, buffer = slice(first, first + count), _buffer_on(out.device, scratch)
    given = weights_by_rows(weights, rows, pieces, buffer)
    prepared = extra.pop("prepared", None)
    begin = 0
    for target, numbers, *parts in zip(targets, given, *models, strict=False):
        if isinstance(prepared, tuple):
            extra["prepared"] = tuple(_slice_of(part, begin, target, out.numel()) for part in prepared)
        begin += target.numel()
        _round_into(target, spec.function(*_read(spec, parts, scratch), **numbers, **extra), dtype, scratch)


def _pieces(rows: int, size: int, device: torch.device) -> int:
    """The count of pieces, about as large as each other, for rows of so many bytes."""
    piece = _GPU_PIECE if device.type != "cpu" else _CPU_PIECE * torch.get_num_threads()
    return -(-rows // max(1, piece // size))


def _slice_of(part: object, begin: int, piece: Tensor, count: int) -> object:
    """The slice for a piece of a prepared tensor that has a number for each of the merged tensor's."""
    if not isinstance(part, Tensor) or part.numel() != count or count == 1:
        return part
    return part.view(-1)[begin : begin + piece.numel()].view(piece.shape)


def _lerp(
    sources: Sequence[Tensor],
    alpha: float | TensorWeight,
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
    begin: int,
) -> None:
    """Write `a + alpha (b - a)`, see `combine`.

    torch computes that of half precision in fp32 and rounds once: the same bits as with copies in fp32, in less time.
    A weight for each place is then rounded to fp16 too: by less than 1/2048 of itself, so of a number's change. In bf16
    that would be 1/256.
    """
    alike = all(source.dtype == dtype for source in sources)
    alphas: Iterator[Weight]
    if isinstance(alpha, TensorWeight):
        working = dtype if alike and dtype == torch.float16 else torch.float32
        width = alpha.width
        first, count = begin // width, out.numel() // width
        pieces = _pieces(count, width * torch.float32.itemsize, out.device)
        room = _buffer_on(out.device, scratch)("alpha")
        alphas = alpha.tables(slice(first, first + count), pieces, room, working)
    elif alike and out.dtype == dtype:
        torch.lerp(sources[0], sources[1], alpha, out=out)
        return
    else:
        working, width, alphas = dtype if alike else torch.float32, 1, repeat(alpha)
        pieces = _pieces(out.numel(), working.itemsize, out.device)
    targets, *models = (_cut(tensor, width, pieces) for tensor in (out, *sources))
    for target, weight, *pair in zip(targets, alphas, *models, strict=False):
        one, other = pair if alike and working == dtype else _in_fp32("source", pair, scratch)
        if out.dtype == dtype == working:
            torch.lerp(one, other, weight, out=target)
        else:
            result = scratch.room("result", target.shape, working, out.device)
            _round_into(target, torch.lerp(one, other, weight, out=result), dtype, scratch)


def _cut(tensor: Tensor, width: int, pieces: int) -> Sequence[Tensor]:
    """A contiguous tensor as a matrix, in so many pieces of whole rows."""
    rows = tensor.view(-1, width)
    return rows.chunk(pieces) if pieces > 1 else (rows,)


def _read(spec: MethodSpec, tensors: Sequence[Tensor], scratch: Scratch) -> list[Tensor]:
    """The tensors; in fp32 those that the last stage reads."""
    if len(spec.read) == len(tensors) or spec.prepare is None:
        return _in_fp32("source", tensors, scratch)
    wide = iter(_in_fp32("source", [tensor for tensor, name in _named(spec, tensors) if name in spec.read], scratch))
    return [next(wide) if name in spec.read else tensor for tensor, name in _named(spec, tensors)]


def _named(spec: MethodSpec, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, str]]:
    return zip(tensors, spec.models, strict=True)


def _in_fp32(name: str, tensors: Sequence[Tensor], scratch: Scratch) -> list[Tensor]:
    """The tensors in fp32: the tensor itself if it is already, else a copy in scratch memory."""
    wide = []
    for number, tensor in enumerate(tensors):
        if tensor.dtype != torch.float32:
            copy = scratch.room(f"{name} {number}", tensor.shape, torch.float32, tensor.device)
            tensor = copy.copy_(tensor)
        wide.append(tensor)
    return wide


def _round_into(out: Tensor, result: Tensor, dtype: torch.dtype, scratch: Scratch) -> None:
    """Round ``result`` to ``dtype`` and copy it to ``out``, widened to its dtype."""
    result = result.reshape(out.shape)
    if dtype in (result.dtype, out.dtype, torch.float32):
        out.copy_(result)
    else:
        out.copy_(scratch.room("rounded", out.shape, dtype, out.device).copy_(result))


def combine_channels(
    spec: MethodSpec,
    sources: Sequence[Tensor],
    weights: Weights,
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
    key: str,
    common: int,
    cache: Callable[[Make], Prepared] | None = None,
) -> None:
    """Write the merge of ``sources`` into ``out`` where they differ in the number of input channels.

    Args:
        spec: as for ``combine``.
        sources: Tensors of shape [out, in, ...], the widest of them as wide as ``out``.
        weights: as for ``combine``.
        out: as for ``combine``; the channels after ``common`` are copied from the first of the widest models.
        dtype: as for ``combine``.
        scratch: as for ``combine``.
        key: as for ``combine``.
        common: number of input channels that all of them have.
        cache: as for ``combine``.
    """
    put(next(source for source in sources if source.shape == out.shape), out, dtype, scratch)
    narrow = [source[:, :common].contiguous() for source in sources]
    combine(spec, narrow, weights, out[:, :common], dtype, scratch, key, cache)


def put(source: Tensor, out: Tensor, dtype: torch.dtype, scratch: Scratch) -> None:
    """Write one model's own tensor into ``out``, rounded to ``dtype`` like a merge.

    Args:
        source: Tensor of ``out``'s shape.
        out: Tensor of any float dtype and strides.
        dtype: what it is rounded to first.
        scratch: reused memory.
    """
    if source.numel() == 0:
        return
    _round_into(out, source, dtype, scratch)
