"""What a merge method consists of besides its function: weights, options, statistics and cost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from bayes_merger.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Weight = Union[float, "Tensor"]
"""What decides how much of a model goes into the merge: a number, or a tensor of the models' shape with one for each
place. A weight that is annotated ``float`` takes numbers only."""

Prepared = tuple[Any, ...]
"""Result of a first stage: tensors (those of the models' shape are cut into pieces with them) and numbers."""

Statistics = tuple[float, ...]
"""Numbers about whole models."""


class Cost(NamedTuple):
    """Time and memory of a method, measured on a pair or triple of full-size Stable Diffusion 1.5 models.

    ``benchmarks/costs.py`` measures it.

    Attributes:
        time: nanoseconds per merged number on one core, besides reading and writing.
        copies: of the largest tensor in fp32 that are in memory at once; 0 where tensors are worked on in pieces.
        decomposes: whether the time also grows with the shorter side of a matrix.
        measured: whether these are measurements, or a cautious guess.
    """

    time: float
    copies: float = 0
    decomposes: bool = False
    measured: bool = True


@dataclass(frozen=True)
class WeightRange:
    """One weight of a method.

    Attributes:
        default: the value if it is not set.
        low: lower end of the range that is searched.
        high: upper end of it.
        least: the smallest number for which the formula is defined.
        most: the largest one.
    """

    default: float
    low: float = 0.0
    high: float = 1.0
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class Option:
    """One setting of a method that is the same for every tensor and is not searched.

    Attributes:
        default: the value if it is not set.
        choices: the texts it accepts; empty for a whole number.
    """

    default: str | int
    choices: tuple[str, ...] = ()

    def read(self, name: str, value: object) -> str | int:
        """The value, which may still be a text from the command line.

        Raises:
            ConfigError: not one of the choices, or not a whole number.
        """
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"{name}: {value!r} is unknown; give one of {', '.join(self.choices)}")
            return str(value)
        text = "" if isinstance(value, bool) else str(value)
        if not re.fullmatch(r"-?\d+", text):
            raise ConfigError(f"{name}: {value!r} is not a whole number")
        return int(text)


@dataclass(frozen=True)
class ModelStatistic:
    """Statistics over all merged tensors of the models, taken before the first of them is merged.

    Attributes:
        per_tensor: a tensor's share of them, from the models' tensors in fp32: a small tensor of any shape.
        reduce: from the shares of all tensors, ordered by key, to the statistics.
    """

    per_tensor: Callable[..., Tensor]
    reduce: Callable[[list[Tensor]], Statistics]
