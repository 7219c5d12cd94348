"""Tensors as vectors: lengths, inner products and angles of whole tensors.

Sums run piece by piece: each piece fits into the cache, and the pieces are added in double precision. torch's own norm
of 10^7 numbers has four correct digits, and its temporaries cost more than the sum. Vectors are scaled first, so that
squares neither underflow nor overflow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bayes_merger.merging.parameters import Weight

if TYPE_CHECKING:
    from torch import Tensor

Table = list[list[float]]

_CPU_PIECE = 2**16  # numbers; half a dozen pieces stay in a core's cache
_GPU_PIECE = 2**26
_UNSCALED = 1e-6  # vectors whose largest number lies between this and its inverse need no scaling
_ROW = 2**12  # numbers that one thread sums


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, cut into vectors at the same places."""
    rows = [tensor.reshape(-1) for tensor in tensors]
    size = _CPU_PIECE if rows[0].device.type == "cpu" else _GPU_PIECE
    for begin in range(0, rows[0].numel(), size):
        yield tuple(row[begin : begin + size] for row in rows)


def sum_of(tensor: Tensor) -> float:
    """The sum of all numbers, bit for bit the same on any number of threads, since each row is summed by one thread."""
    flat = tensor.reshape(-1)
    whole = flat.numel() // _ROW * _ROW
    rows = flat[:whole].view(-1, _ROW).sum(1).double()
    return float(rows.sum()) + float(flat[whole:].sum())


def moved(models: Sequence[Tensor], base: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Pieces of the models, or of their differences to a base."""
    if base is None:
        for piece in pieces(*models):
            yield list(piece)
    else:
        for *parts, origin in pieces(*models, base):
            yield [part - origin for part in parts]


def sizes(models: Sequence[Tensor], base: Tensor | None = None) -> list[float]:
    """The largest absolute value of each; 0 for an empty tensor."""
    largest = [0.0] * len(models)
    for piece in moved(models, base):
        for i, part in enumerate(piece):
            low, high = part.aminmax()
            largest[i] = max(largest[i], -float(low), float(high))
    return largest


def products(models: Sequence[Tensor], scales: Sequence[float], base: Tensor | None = None) -> Table:
    """Inner products of all pairs of the models (or their differences to a base), each divided by its scale."""
    table = [[0.0] * len(models) for _ in models]
    for piece in moved(models, base):
        scaled = [part / (scale or 1.0) for part, scale in zip(piece, scales, strict=True)]
        for i, j in itertools.combinations_with_replacement(range(len(scaled)), 2):
            table[i][j] += sum_of(scaled[i] * scaled[j])
    for i, j in itertools.combinations(range(len(models)), 2):
        table[j][i] = table[i][j]
    return table


def _scaled(piece: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
    return [part if scale == 1.0 else part / scale for part, scale in zip(piece, scales, strict=True)]


def lengths_and_angles(models: Sequence[Tensor], base: Tensor | None = None) -> tuple[list[float], Table]:
    """The length of each, and the angle of each pair in radians; a zero vector is at a right angle to any other.

    The angle is `2 atan2(|u - v|, |u + v|)` of the unit vectors: exact also near 0 and pi, unlike acos. See W. Kahan,
    "How futile are mindless assessments of roundoff", section 12.
    """
    largest = sizes(models, base)
    scales = [1.0 if _UNSCALED <= size <= 1.0 / _UNSCALED else size or 1.0 for size in largest]
    squares = [0.0] * len(models)
    for piece in moved(models, base):
        for i, part in enumerate(_scaled(piece, scales)):
            squares[i] += sum_of(part.square())
    # rounding must not make a vector shorter than its largest number; zero vectors get 1
    units = [max(math.sqrt(squares[i]), size / scales[i]) or 1.0 for i, size in enumerate(largest)]
    pairs = list(itertools.combinations(range(len(models)), 2))
    minus, plus = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    for piece in moved(models, base):
        unit = [part / length for part, length in zip(_scaled(piece, scales), units, strict=True)]
        for i, j in pairs:
            minus[i, j] += sum_of((unit[i] - unit[j]).square_())
            plus[i, j] += sum_of((unit[i] + unit[j]).square_())
    table = [[0.0] * len(models) for _ in models]
    for i, j in pairs:
        table[i][j] = table[j][i] = 2 * math.atan2(math.sqrt(minus[i, j]), math.sqrt(plus[i, j]))
    lengths = [scale * unit if size else 0.0 for size, scale, unit in zip(largest, scales, units, strict=True)]
    return lengths, table


def plus(tensor: Tensor, step: Tensor, weight: Weight) -> Tensor:
    """``tensor + weight step`` for a number, or a number for each place: the same bits where they are equal."""
    return tensor.add(step, alpha=weight) if isinstance(weight, float | int) else tensor.addcmul(step, weight)


def times(tensor: Tensor, factor: float) -> Tensor:
    """``tensor * factor`` for a factor that may overflow fp32 although the product does not."""
    if abs(factor) < 1e30:
        return tensor * factor
    return (tensor * 1e30).mul_(factor / 1e30)
