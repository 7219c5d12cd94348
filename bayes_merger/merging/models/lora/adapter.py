"""What a member of the LoRA family is: which parameters it has, and what they make of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Parts = Mapping[str, "Tensor"]
"""Parameter to its tensor, read in fp32 when it is asked for."""


@dataclass(frozen=True)
class Situation:
    """What an adapter may ask for besides its own parameters.

    Attributes:
        strength: factor of the product of factors.
        config: PEFT's configuration, empty where there is none.
    """

    strength: float
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Adapter:
    """A member of the family.

    Attributes:
        needs: the parameters without which it is incomplete; any of them marks it.
        may: the parameters that it may have besides.
        made: the shape of the layer that parameters of these shapes are for, given the layer's own.
        apply: the new matrix, of W (in its own shape), the parameters and the situation.
        rank: of its factors, 0 where there is none.
        decomposes: whether DoRA may follow.
    """

    needs: tuple[str, ...]
    may: tuple[str, ...]
    made: Callable[[Shapes, Shape], Shape]
    apply: Callable[[Tensor, Parts, Situation], Tensor]
    rank: Callable[[Shapes], int] = lambda shapes: 0
    decomposes: bool = False


class Unfit(CheckpointError):
    """Shapes that do not fit each other; the text does not name the layer."""


def disagreement(*shapes: Shape) -> Unfit:
    """The error of factors that cannot be multiplied with each other."""
    return Unfit(f"factors of {' and '.join(str(list(shape)) for shape in shapes)} do not fit each other; "
                 "the file is damaged")  # fmt: skip
