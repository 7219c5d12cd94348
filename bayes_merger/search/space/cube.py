"""Points of the unit cube, and the values they stand for.

Samplers work in the cube, so that a narrow range counts as much as a wide one. Our own spaces hold plain floats only;
steps, logarithms, integers and choices are supported because Optuna samplers may be used with them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]


def generator(seed: int, *key: int) -> np.random.Generator:
    """A random generator for a study's seed and this key (a slot, a block of rows), independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def derived_seed(seed: int, *key: int) -> int:
    """A seed below 2**32 for a study's seed and this key, for libraries that need one."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


def latin_hypercube(rng: np.random.Generator, rows: int, dimensions: int) -> Array:
    """Points of which, in every dimension, exactly one falls into each of ``rows`` equal bins.

    Args:
        rng: random numbers, for the order and for the positions inside the bins.
        rows: how many points.
        dimensions: of the cube.

    Returns:
        Array of shape ``(rows, dimensions)``, values in [0, 1). McKay, Beckman and Conover (1979),
        https://doi.org/10.2307/1268522
    """
    bins = rng.permuted(np.tile(np.arange(rows)[:, None], (1, dimensions)), axis=0)
    points: Array = (bins + rng.random((rows, dimensions))) / rows
    # At the top of a bin, rounding up would give a point of the next bin.
    return np.minimum(points, np.nextafter((bins + 1) / rows, 0.0))


def sobol_points(seed: int, first: int, rows: int, dimensions: int) -> Array:
    """Rows ``first`` to ``first + rows`` of a Sobol sequence, scrambled by Owen's method with this seed.

    Returns:
        Array of shape ``(rows, dimensions)``, values in [0, 1). Owen (1998), https://doi.org/10.1145/272991.273010
    """
    from scipy.stats import qmc  # half a second

    sequence = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a count that is not a power of two is only slightly less even
        points: Array = sequence.random(first + rows)[first:]
    return points


def to_values(point: Sequence[float] | Array, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """The values a point of the cube stands for: one number per dimension, in the order of the space."""
    return {
        name: _value(min(max(float(u), 0.0), 1.0), distribution)
        for u, (name, distribution) in zip(point, space.items(), strict=True)
    }


def to_point(values: Mapping[str, Any], space: Mapping[str, BaseDistribution], *, clip: bool = True) -> list[float]:
    """The point of the cube that stands for these values.

    Args:
        values: by name; names that are not in the space are ignored.
        space: the cube's dimensions, in order.
        clip: whether to clip values to their range; otherwise they lie outside the cube, on the same scale.

    Raises:
        ValueError: for a choice that is not in the space.
    """
    point = [_coordinate(values[name], distribution) for name, distribution in space.items()]
    return [min(max(u, 0.0), 1.0) for u in point] if clip else point


def _value(u: float, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    low, high, step, log = _scale(distribution)
    if log:
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    elif step is not None:
        # Every step has an equal part of [0, 1].
        count = round((high - low) / step) + 1
        value = low + min(int(u * count), count - 1) * step
    else:
        value = low + u * (high - low)
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def _coordinate(value: Any, distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    low, high, step, log = _scale(distribution)
    if low == high:
        return 0.5
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    if step is not None:
        return (float(value) - low + step / 2) / (high - low + step)
    return (float(value) - low) / (high - low)


def _scale(distribution: BaseDistribution) -> tuple[float, float, float | None, bool]:
    if isinstance(distribution, FloatDistribution):
        return distribution.low, distribution.high, distribution.step, distribution.log
    if isinstance(distribution, IntDistribution):
        step = None if distribution.log else float(distribution.step)
        return float(distribution.low), float(distribution.high), step, distribution.log
    raise TypeError(f"no point of the cube stands for a {type(distribution).__name__}")
