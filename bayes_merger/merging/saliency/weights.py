"""A weight with a number of its own for every place of a tensor, computed piece by piece from a few vectors.

The number of the block is `w`. What multiplies it at a place is the product of a factor for its row and one for its
column (or one for the place itself):

    act:        w_ij = w f_ij, limited to where the method is defined
    saliency:   w_ij = w p_ij / (w p_ij + 1 - w),   p_ij = (s_b / s_a)_ij^strength = r_i / c_j
                     = q_i / (q_i + c_j),           q_i = w / (1 - w) r_i

The second moves the log odds: `logit w_ij = logit w + strength log (s_b / s_a)_ij`. A weight of 0 or 1 stays so,
strength 0 changes nothing, and at strength 1 and w = 1/2 it is the share `s_b / (s_a + s_b)`. Where the winner takes
all, the weight is 1 where the share at strength 1 is more than a half, else 0. Only products, sums and quotients are
taken of whole tensors, which are the same bits on any number of threads and in any pieces.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from bayes_merger.merging.parameters import Weight

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Room = Callable[[tuple[int, ...], "torch.dtype"], "Tensor"]
"""From a shape and a dtype to numbers to write into, on the device of the tensor; the same memory every time."""

Buffer = Callable[[str], Room]
"""From the name of a weight to memory for its numbers."""


@dataclass(frozen=True)
class TensorWeight(ABC):
    """A weight of one tensor, seen as a matrix. Its factors are matrices of as many rows or one, in fp32 mostly.

    Attributes:
        width: numbers in a row of the tensor: all that feed one output.
    """

    width: int

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """What it is computed from."""

    @abstractmethod
    def fill(self, factors: Sequence[Tensor], table: Tensor) -> None:
        """Write weights.

        Args:
            factors: the rows of them that are meant.
            table: what is written into, of the shape to which they broadcast.
        """

    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""

    def tables(self, rows: slice, pieces: int, room: Room, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weights of some rows in so many pieces, each in the place of the one before, as `torch.chunk` makes them.

        They are matrices that broadcast to those rows: where all rows are alike there is one, and so with columns.

        Args:
            rows: which.
            pieces: how many.
            room: memory for them.
            dtype: what they are computed in fp32 and rounded to.
        """
        import torch

        factors, height, width = [], 1, 1
        for factor in self.factors:
            own, wide = factor.shape
            if own > 1:
                height = rows.stop - rows.start
            factors.append(factor if own <= height else factor[rows])
            width = max(width, wide)
        step = -(-height // pieces)
        table = room((step, width), torch.float32)
        rounded = table if dtype == torch.float32 else room((step, width), dtype)
        factors = [factor.to(table.device) for factor in factors]
        if step == height:
            self.fill(factors, table)
            made = table if rounded is table else rounded.copy_(table)
            return repeat(made) if height == 1 else iter((made,))
        parts = zip(*(repeat(part) if part.shape[0] == 1 else part.chunk(pieces) for part in factors), strict=False)
        return self._filled(parts, table, rounded)

    def _filled(self, parts: Iterable[tuple[Tensor, ...]], table: Tensor, rounded: Tensor) -> Iterator[Tensor]:
        step, exact = table.shape[0], rounded is table
        for factors in parts:
            size = max([factor.shape[0] for factor in factors])
            if size < step:  # of the last piece
                table, rounded = table[:size], rounded[:size]
            self.fill(factors, table)
            yield table if exact else rounded.copy_(table)


@dataclass(frozen=True)
class MovedWeight(TensorWeight):
    """A weight in (0, 1) whose odds are moved.

    Attributes:
        odds: for the weight: `q`, a column.
        against: `c`, a row, or a matrix as wide as the tensor.
    """

    odds: Tensor
    against: Tensor

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """What it is computed from."""
        return self.odds, self.against

    def fill(self, factors: Sequence[Tensor], table: Tensor) -> None:
        """Write weights."""
        import torch

        odds, against = factors
        torch.add(odds, against, out=table)
        torch.div(odds, table, out=table)

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""
        low, high = (float(odds) for odds in self.odds.aminmax())
        least, most = (float(odds) for odds in self.against.aminmax())
        return low / (low + most), high / (high + least)


@dataclass(frozen=True)
class WonWeight(MovedWeight):
    """A weight of 1 where its odds are above even, and 0 elsewhere."""

    def fill(self, factors: Sequence[Tensor], table: Tensor) -> None:
        """Write weights."""
        import torch

        odds, against = factors
        torch.sub(odds, against, out=table).sign_().clamp_(min=0)  # a mask takes torch several times as long

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""
        low, high = (float(odds) for odds in self.odds.aminmax())
        least, most = (float(odds) for odds in self.against.aminmax())
        return float(low > most), float(high > least)


@dataclass(frozen=True)
class ScaledWeight(TensorWeight):
    """A weight that is multiplied.

    Attributes:
        number: of the block.
        multipliers: what multiplies it, at most two, of any float dtype: a column comes first.
        least: the smallest weight for which the method is defined.
        most: the largest one.
    """

    number: float
    multipliers: tuple[Tensor, ...]
    least: float = -math.inf
    most: float = math.inf

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """What it is computed from."""
        return self.multipliers

    def fill(self, factors: Sequence[Tensor], table: Tensor) -> None:
        """Write weights."""
        import torch

        *rows, last = factors
        if last.dtype != torch.float32:  # a plain file's own, widened where it is used and nowhere whole
            last = table.copy_(last)
        torch.mul(last, rows[0].float() * self.number if rows else self.number, out=table)
        if math.isfinite(self.least) or math.isfinite(self.most):
            table.clamp_(self.least, self.most)

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""
        lows, highs = zip(*(factor.float().aminmax() for factor in self.factors), strict=True)
        found = sorted(self.number * math.prod(map(float, ends)) for ends in (lows, highs))
        return max(found[0], self.least), min(found[1], self.most)


def as_matrix(factor: Tensor, shape: Sequence[int]) -> Tensor:
    """A factor with as many dimensions as the tensor, as `TensorWeight` takes it: taps beside each other."""
    if not shape:
        return factor.reshape(1, 1)
    if math.prod(factor.shape[1:]) == 1:
        return factor.reshape(-1, 1)
    return factor.expand(factor.shape[0], *shape[1:]).reshape(factor.shape[0], -1)


Weights = Mapping[str, "float | TensorWeight"]
"""A method's weights for one tensor."""


def vary(weights: Weights) -> bool:
    """Whether any differs from number to number."""
    return any(isinstance(weight, TensorWeight) for weight in weights.values())


def row_width(weights: Weights) -> int:
    """Numbers in a row of a tensor with these weights, which are computed by whole rows; 1 where all are numbers."""
    return max((weight.width for weight in weights.values() if isinstance(weight, TensorWeight)), default=1)


def weights_by_rows(weights: Weights, rows: slice, pieces: int, buffer: Buffer) -> Iterator[dict[str, Weight]]:
    """The weights as a method takes them, in fp32; without end where none differs from row to row.

    Args:
        weights: of the tensor.
        rows: of the tensor as a matrix, those that are meant.
        pieces: how many.
        buffer: memory for them; what follows is written into the same.
    """
    import torch

    columns = [
        weight.tables(rows, pieces, buffer(name), torch.float32) if isinstance(weight, TensorWeight) else repeat(weight)
        for name, weight in weights.items()
    ]
    return (dict(zip(weights, values, strict=True)) for values in zip(*columns, strict=False))


def within_0_and_1(weight: float | TensorWeight) -> bool:
    """Whether a weight is certain to lie there for every number of a tensor."""
    if isinstance(weight, MovedWeight):
        return True
    low, high = weight.ends() if isinstance(weight, TensorWeight) else (weight, weight)
    return low >= 0 and high <= 1
