"""One method applied to the tensors of one key: computed in fp32, rounded once, written into memory that exists.

Files and live models go through this one function with the same pieces, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bayes_merger.merging.method import MethodSpec

_CPU_PIECE = 2**18  # numbers; three fp32 pieces stay in a core's cache
_GPU_PIECE = 2**26  # launches cost more than cache misses there


class Scratch:
    """Memory that is asked for again and again: it grows to the largest request and stays."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def flat(self, name: str, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``count`` numbers to write into; what they hold is left over from the last use of this name."""
        key = (name, dtype, device)
        kept = self._kept.get(key)
        if kept is None or kept.numel() < count:
            kept = self._kept[key] = torch.empty(count, dtype=dtype, device=device)
        return kept[:count]


def combine(
    spec: MethodSpec,
    sources: Sequence[Tensor],
    weights: Mapping[str, float],
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
    key: str = "",
) -> None:
    """Write the merge of ``sources`` into ``out``.

    Args:
        spec: the method.
        sources: one contiguous tensor per model, of one shape and on ``out``'s device, of any float dtypes; only read.
        weights: weight name to number.
        out: Tensor of the same shape, any float dtype and strides.
        dtype: what the result is rounded to before it is widened to ``out``'s.
        scratch: reused memory.
        key: name of the tensor, for methods that ask.
    """
    if out.numel() == 0:
        return
    if not out.is_contiguous():
        whole = scratch.flat("whole", out.numel(), dtype, out.device).view(out.shape)
        combine(spec, sources, weights, whole, dtype, scratch, key)
        out.copy_(whole)
        return
    if spec.fused and out.dtype == dtype and all(source.dtype == dtype for source in sources):
        # torch computes lerp of half precision in fp32 and rounds once: the same bits as in pieces, below.
        torch.lerp(sources[0], sources[1], weights["alpha"], out=out)
        return
    flat = out.view(-1)
    if not spec.elementwise:
        named = {"key": key} if spec.keyed else {}
        result = spec.function(*_wide("source", sources, scratch), **weights, **named)
        _round_into(flat, result.reshape(-1), dtype, scratch)
        return
    step = _CPU_PIECE if out.device.type == "cpu" else _GPU_PIECE
    rows = [source.view(-1) for source in sources]
    for begin in range(0, flat.numel(), step):
        pieces = [row[begin : begin + step] for row in rows]
        _combine_piece(spec, pieces, weights, flat[begin : begin + step], dtype, scratch)


def _combine_piece(
    spec: MethodSpec,
    pieces: Sequence[Tensor],
    weights: Mapping[str, float],
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
) -> None:
    if not spec.fused:
        _round_into(out, spec.function(*_wide("source", pieces, scratch), **weights), dtype, scratch)
    elif all(piece.dtype == dtype for piece in pieces):
        rounded = scratch.flat("rounded", out.numel(), dtype, out.device)
        out.copy_(torch.lerp(pieces[0], pieces[1], weights["alpha"], out=rounded))
    else:
        wide = _wide("source", pieces, scratch)
        result = scratch.flat("result", out.numel(), torch.float32, out.device)
        _round_into(out, torch.lerp(wide[0], wide[1], weights["alpha"], out=result), dtype, scratch)


def _wide(name: str, tensors: Sequence[Tensor], scratch: Scratch) -> list[Tensor]:
    """The tensors in fp32: themselves where they are, else copies in scratch memory."""
    wide = []
    for number, tensor in enumerate(tensors):
        if tensor.dtype != torch.float32:
            copy = scratch.flat(f"{name} {number}", tensor.numel(), torch.float32, tensor.device).view(tensor.shape)
            tensor = copy.copy_(tensor)
        wide.append(tensor)
    return wide


def _round_into(out: Tensor, result: Tensor, dtype: torch.dtype, scratch: Scratch) -> None:
    if dtype in (out.dtype, torch.float32):
        out.copy_(result)
    else:
        out.copy_(scratch.flat("rounded", out.numel(), dtype, out.device).copy_(result))


def combine_channels(
    spec: MethodSpec,
    sources: Sequence[Tensor],
    weights: Mapping[str, float],
    out: Tensor,
    dtype: torch.dtype,
    scratch: Scratch,
    key: str,
    common: int,
) -> None:
    """Write the merge of ``sources`` into ``out`` where they differ in their number of input channels.

    Args:
        spec: as for ``combine``.
        sources: Tensors of shape [out, in, ...], the widest of them as wide as ``out``.
        weights: as for ``combine``.
        out: as for ``combine``; the channels beyond ``common`` are those of the first of the widest models.
        dtype: as for ``combine``.
        scratch: as for ``combine``.
        key: as for ``combine``.
        common: input channels that all of them have.
    """
    put(next(source for source in sources if source.shape == out.shape), out, dtype, scratch)
    narrow = [source[:, :common].contiguous() for source in sources]
    combine(spec, narrow, weights, out[:, :common], dtype, scratch, key)


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
    if dtype in (source.dtype, out.dtype, torch.float32):
        out.copy_(source)
    else:
        out.copy_(scratch.flat("rounded", out.numel(), dtype, source.device).view(out.shape).copy_(source))
