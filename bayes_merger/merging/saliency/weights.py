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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.merging.parameters import Weight

if TYPE_CHECKING:
    from torch import Tensor

Buffer = Callable[[str, int], "Tensor"]
"""From a name and a count to so many numbers in fp32 to write into."""


@dataclass(frozen=True)
class TensorWeight(ABC):
    """A weight of one tensor, seen as a matrix. Its factors are matrices in fp32 of as many rows or one.

    Attributes:
        width: numbers in a row of the tensor: all that feed one output.
    """

    width: int

    @abstractmethod
    def fill(self, first: int, table: Tensor) -> None:
        """Write the weights of some rows.

        Args:
            first: the first of the rows.
            table: what is written into, a matrix of as many rows.
        """

    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""


@dataclass(frozen=True)
class MovedWeight(TensorWeight):
    """A weight in (0, 1) whose odds are moved.

    Attributes:
        odds: for the weight: `q`, a column.
        against: `c`, a row, or a matrix as wide as the tensor.
    """

    odds: Tensor
    against: Tensor

    def fill(self, first: int, table: Tensor) -> None:
        """Write the weights of some rows."""
        import torch

        odds, against = (_rows(factor, first, table) for factor in (self.odds, self.against))
        torch.add(odds, against.expand(table.shape), out=table)
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
        factors: what multiplies it, at most two: a column comes first.
        least: the smallest weight for which the method is defined.
        most: the largest one.
    """

    number: float
    factors: tuple[Tensor, ...]
    least: float = -math.inf
    most: float = math.inf

    def fill(self, first: int, table: Tensor) -> None:
        """Write the weights of some rows."""
        import torch

        *rows, last = (_rows(factor, first, table) for factor in self.factors)
        torch.mul(last.expand(table.shape), rows[0] * self.number if rows else self.number, out=table)
        if math.isfinite(self.least) or math.isfinite(self.most):
            table.clamp_(self.least, self.most)

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""
        lows, highs = zip(*(factor.aminmax() for factor in self.factors), strict=True)
        found = sorted(self.number * math.prod(map(float, ends)) for ends in (lows, highs))
        return max(found[0], self.least), min(found[1], self.most)


def _rows(factor: Tensor, first: int, table: Tensor) -> Tensor:
    """The rows of a factor that are those of a table, where that is."""
    rows = factor if factor.shape[0] == 1 else factor[first : first + len(table)]
    return rows if rows.device == table.device else rows.to(table.device)


def as_matrix(factor: Tensor, shape: Sequence[int]) -> Tensor:
    """A factor with as many dimensions as the tensor, as `TensorWeight` takes it: taps beside each other."""
    if not shape:
        return factor.reshape(1, 1)
    if math.prod(factor.shape[1:]) == 1:
        return factor.reshape(-1, 1)
    return factor.expand(factor.shape[0], *shape[1:]).reshape(factor.shape[0], -1)


Weights = Mapping[str, "float | TensorWeight"]
"""A method's weights for one tensor."""


def row_width(weights: Weights) -> int:
    """Numbers in a row of a tensor with these weights, which are computed by whole rows; 1 where all are numbers."""
    return max((weight.width for weight in weights.values() if isinstance(weight, TensorWeight)), default=1)


def weights_at(weights: Weights, begin: int, end: int, buffer: Buffer) -> dict[str, Weight]:
    """The weights as a method takes them for some rows of a tensor.

    Args:
        weights: of the tensor.
        begin: of its numbers in the order of memory, the first that is meant: the first of a row.
        end: one past the last, which is the last of a row.
        buffer: memory for them.
    """
    return {name: _at(name, weight, begin, end, buffer) for name, weight in weights.items()}


def _at(name: str, weight: float | TensorWeight, begin: int, end: int, buffer: Buffer) -> Weight:
    if not isinstance(weight, TensorWeight):
        return weight
    made = buffer(name, end - begin)
    weight.fill(begin // weight.width, made.view(-1, weight.width))
    return made


def within_0_and_1(weight: float | TensorWeight) -> bool:
    """Whether a weight is certain to lie there for every number of a tensor."""
    if isinstance(weight, MovedWeight):
        return True
    low, high = weight.ends() if isinstance(weight, TensorWeight) else (weight, weight)
    return low >= 0 and high <= 1
