"""A weight with a number of its own for every place of a tensor, computed piece by piece from a few vectors.

The number of the block is `w`. What multiplies it at a place is the product of a factor for its row and one for its
column (or one for the place itself):

    act:        w_ij = w f_ij, limited to where the method is defined
    saliency:   w_ij = w p_ij / (w p_ij + 1 - w),   p_ij = (s_b / s_a)_ij^strength = r_i / c_j
                     = q_i / (q_i + c_j),           q_i = w / (1 - w) r_i

The second moves the log odds: `logit w_ij = logit w + strength log (s_b / s_a)_ij`. A weight of 0 or 1 stays so,
strength 0 changes nothing, and at strength 1 and w = 1/2 it is the share `s_b / (s_a + s_b)`. Only products, sums and
quotients are taken of whole tensors, which are the same bits on any number of threads and in any pieces.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from bayes_merger.merging.parameters import Weight

if TYPE_CHECKING:
    from torch import Tensor

Buffer = Callable[[str, tuple[int, ...]], "Tensor"]
"""From a name and a shape to numbers in fp32 to write into."""


@dataclass(frozen=True)
class TensorWeight(ABC):
    """A weight of one tensor, seen as a matrix. Its factors are matrices in fp32 of as many rows or one.

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

    def tables(self, rows: slice, pieces: int, room: Callable[[tuple[int, ...]], Tensor]) -> Iterator[Tensor]:
        """The weights of some rows in so many pieces, each in the place of the one before, as `torch.chunk` makes them.

        They are matrices that broadcast to those rows: where all rows are alike there is one, and so with columns.

        Args:
            rows: which.
            pieces: how many.
            room: from a shape to numbers in fp32 to write into, on the device of the tensor.
        """
        device, step = room((1, 1)).device, -(-(rows.stop - rows.start) // pieces)
        factors = [(factor if factor.shape[0] == 1 else factor[rows]).to(device) for factor in self.factors]
        width = max(factor.shape[1] for factor in factors)
        split = [repeat(factor) if factor.shape[0] == 1 else factor.chunk(pieces) for factor in factors]
        if all(isinstance(parts, repeat) for parts in split):
            table = room((1, width))
            self.fill(factors, table)
            yield from repeat(table)
        for begin, *parts in zip(range(rows.start, rows.stop, step), *split, strict=False):
            table = room((min(step, rows.stop - begin), width))
            self.fill(parts, table)
            yield table


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
class ScaledWeight(TensorWeight):
    """A weight that is multiplied.

    Attributes:
        number: of the block.
        multipliers: what multiplies it, at most two: a column comes first.
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
        torch.mul(last, rows[0] * self.number if rows else self.number, out=table)
        if math.isfinite(self.least) or math.isfinite(self.most):
            table.clamp_(self.least, self.most)

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""
        lows, highs = zip(*(factor.aminmax() for factor in self.factors), strict=True)
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
    """The weights as a method takes them, without end where none differs from row to row.

    Args:
        weights: of the tensor.
        rows: of the tensor as a matrix, those that are meant.
        pieces: how many.
        buffer: memory for them; what follows is written into the same.
    """
    columns = [
        weight.tables(rows, pieces, partial(buffer, name)) if isinstance(weight, TensorWeight) else repeat(weight)
        for name, weight in weights.items()
    ]
    return (dict(zip(weights, values, strict=True)) for values in zip(*columns, strict=False))


def within_0_and_1(weight: float | TensorWeight) -> bool:
    """Whether a weight is certain to lie there for every number of a tensor."""
    if isinstance(weight, MovedWeight):
        return True
    low, high = weight.ends() if isinstance(weight, TensorWeight) else (weight, weight)
    return low >= 0 and high <= 1
