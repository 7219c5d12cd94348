"""A weight with a number of its own for every place of a tensor, computed piece by piece from a few vectors.

The number of the block is `w`. What multiplies it at a place is the product of a factor for its row and one for its
column (or one for the place itself):

    act:        w_ij = w f_ij, limited to where the method is defined
    saliency:   w_ij = w p_ij / (w p_ij + 1 - w),   p_ij = f_ij^strength

The second moves the log odds: `logit w_ij = logit w + strength log f_ij`. A weight of 0 or 1 stays so, strength 0
changes nothing, and at strength 1 and w = 1/2 it is the share `s_b / (s_a + s_b)` where `f = s_b / s_a`. Only products,
sums and quotients are taken of whole tensors, which are the same bits on any number of threads and in any pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.merging.parameters import Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorWeight:
    """A weight of one tensor.

    Attributes:
        number: of the block.
        factors: in fp32, each with as many dimensions as the tensor, and of its size or 1 in each.
        odds: whether they multiply the odds of the number, which lies in (0, 1), instead of the number.
        least: the smallest weight for which the method is defined.
        most: the largest one.
    """

    number: float
    factors: tuple[Tensor, ...]
    odds: bool
    least: float = -math.inf
    most: float = math.inf

    def part(self, shape: Sequence[int], begin: int, end: int, device: object) -> Tensor:
        """The weights of some numbers of a tensor, in the order of memory, as a vector in fp32."""
        width = max(math.prod(shape[1:]), 1)
        first, last = begin // width, -(-end // width)  # whole rows
        rows = [_rows(factor, first, last).to(device) for factor in self.factors]  # type: ignore[call-overload]
        made = rows[0] * self.number
        for factor in rows[1:]:
            made = made * factor
        wanted = (last - first, *shape[1:]) if shape else ()
        if self.odds:
            made = made.div_(made + (1 - self.number))
        elif math.isfinite(self.least) or math.isfinite(self.most):
            made = made.clamp_(self.least, self.most)
        flat: Tensor = made.expand(wanted).reshape(-1)
        return flat[begin - first * width : end - first * width]

    def ends(self) -> tuple[float, float]:
        """Bounds of the weights of the whole tensor; they are reached unless rows and columns never meet there."""
        low, high = (self.number * math.prod(float(end(f)) for f in self.factors) for end in (_least, _most))
        if self.odds:
            low, high = (end / (end + 1 - self.number) for end in (low, high))
        return min(max(low, self.least), self.most), min(max(high, self.least), self.most)


def _least(factor: Tensor) -> Tensor:
    return factor.min()


def _most(factor: Tensor) -> Tensor:
    return factor.max()


def _rows(factor: Tensor, first: int, last: int) -> Tensor:
    return factor if not factor.dim() or factor.shape[0] == 1 else factor[first:last]


Weights = Mapping[str, "float | TensorWeight"]
"""A method's weights for one tensor."""


def weights_at(weights: Weights, shape: Sequence[int], begin: int, end: int, device: object) -> dict[str, Weight]:
    """The weights as a method takes them for some numbers of a tensor."""
    return {
        name: weight.part(shape, begin, end, device) if isinstance(weight, TensorWeight) else weight
        for name, weight in weights.items()
    }
