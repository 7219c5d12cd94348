"""A weight with a number of its own for every place of a tensor, computed piece by piece from a few vectors.

The number of the block is `w`. What multiplies it at a place is the product of a factor for its row and one for its
column (or one for the place itself):

    act:        w_ij = w f_ij, limited to where the method is defined
    saliency:   w_ij = w p_ij / (w p_ij + 1 - w) = 1 / (1 + (1 - w) / w / p_ij),   p_ij = (s_b / s_a)_ij^strength

The second moves the log odds: `logit w_ij = logit w + strength log (s_b / s_a)_ij`. A weight of 0 or 1 stays so,
strength 0 changes nothing, and at strength 1 and w = 1/2 it is the share `s_b / (s_a + s_b)`. Only products, sums and
reciprocals are taken of whole tensors, which are the same bits on any number of threads and in any pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.merging.parameters import Weight

if TYPE_CHECKING:
    from torch import Tensor

Buffer = Callable[[str, int], "Tensor"]
"""From a name and a count to so many numbers in fp32 to write into."""


@dataclass(frozen=True)
class TensorWeight:
    """A weight of one tensor.

    Attributes:
        number: of the block, or of odds `(1 - w) / w`.
        factors: in fp32, each a matrix with the tensor's rows or one, and its `width` or one column.
        odds: whether they multiply the odds against the weight instead of the weight itself.
        width: numbers in a row of the tensor: all that feed one output.
        least: the smallest weight for which the method is defined.
        most: the largest one.
    """

    number: float
    factors: tuple[Tensor, ...]
    odds: bool
    width: int
    least: float = -math.inf
    most: float = math.inf

    def part(self, begin: int, end: int, made: Tensor) -> Tensor:
        """The weights of some numbers of a tensor, in the order of memory.

        Args:
            begin: the first of them.
            end: one past the last.
            made: what is written into, a vector of as many numbers as are in the rows that they lie in.
        """
        import torch

        first = begin // self.width
        table = made.view(-1, self.width)
        count = len(table)
        rows = [f if f.shape[0] == 1 else f[first : first + count] for f in self.factors]
        if made.device.type != "cpu":
            rows = [row.to(made.device) for row in rows]
        product = rows[0] * self.number
        for factor in rows[1:-1]:
            product = product * factor
        if len(rows) == 1:
            table.copy_(product)
        elif tuple(map(max, product.shape, rows[-1].shape)) == (count, self.width):
            torch.mul(product, rows[-1], out=table)
        else:
            table.copy_(product * rows[-1])
        if self.odds:
            made.add_(1).reciprocal_()
        elif math.isfinite(self.least) or math.isfinite(self.most):
            made.clamp_(self.least, self.most)
        return made[begin - first * self.width : end - first * self.width]

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor."""
        low = self.number * math.prod(float(factor.min()) for factor in self.factors)
        high = self.number * math.prod(float(factor.max()) for factor in self.factors)
        if self.odds:
            return 1 / (1 + high), 1 / (1 + low)
        return min(max(low, self.least), self.most), min(max(high, self.least), self.most)


def moved(number: float, inverses: tuple[Tensor, ...], width: int) -> TensorWeight:
    """A weight in (0, 1) whose odds are divided by these factors."""
    return TensorWeight((1 - number) / number, inverses, True, width)


def as_matrix(factor: Tensor, shape: Sequence[int]) -> Tensor:
    """A factor with as many dimensions as the tensor, as `TensorWeight` takes it: taps beside each other."""
    if not shape:
        return factor.reshape(1, 1)
    if math.prod(factor.shape[1:]) == 1:
        return factor.reshape(-1, 1)
    return factor.expand(factor.shape[0], *shape[1:]).reshape(factor.shape[0], -1)


Weights = Mapping[str, "float | TensorWeight"]
"""A method's weights for one tensor."""


def weights_at(weights: Weights, begin: int, end: int, buffer: Buffer) -> dict[str, Weight]:
    """The weights as a method takes them for some numbers of a tensor, in the order of memory."""
    return {name: _at(name, weight, begin, end, buffer) for name, weight in weights.items()}


def _at(name: str, weight: float | TensorWeight, begin: int, end: int, buffer: Buffer) -> Weight:
    if not isinstance(weight, TensorWeight):
        return weight
    rows = -(-end // weight.width) - begin // weight.width
    return weight.part(begin, end, buffer(name, rows * weight.width))
