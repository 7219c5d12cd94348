"""The start design: the rows that every search begins with, whatever the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.search.space.block_order import basis, block_positions
from bayes_merger.search.space.cube import Array, derived_seed, generator, latin_hypercube, sobol_points
from bayes_merger.search.space.space import SearchSpace

KINDS = ("blocks", "lhs", "sobol")
"""What the rest of the design is: merges that respect the order of the blocks (a Latin hypercube where there is none),
a Latin hypercube, or a scrambled Sobol sequence."""

SIDES = ((0.25, 0.75), (0.75, 0.25), (0.25, 0.25), (0.75, 0.75))
"""Of IN and OUT, as shares of the ranges. Without these a search may never leave the side where the even mix leads."""


def design(
    space: SearchSpace, n: int, seed: int, *, anchors: Sequence[Mapping[str, float]] = (), kind: str = "blocks"
) -> list[dict[str, float]]:
    """The start design: pure A, pure B, the even mix, the user's anchors, then points that fill the space.

    Args:
        space: what is searched.
        n: number of rows; with fewer than three, the first of these.
        seed: of the points.
        anchors: values from the user; repeated ones are left out.
        kind: of points, one of ``KINDS``.

    Returns:
        The values of each row. Of a Latin hypercube's rows, exactly one falls into each of as many equal parts of every
        parameter's range.

    Raises:
        ConfigError: a number or kind that makes no sense, or too few rows for the user's anchors.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ConfigError(f"init_points: {n!r} is not a whole number of 0 or above")
    if kind not in KINDS:
        raise ConfigError(f"design: unknown kind {kind!r}; {nearest(str(kind), KINDS)}")
    rows = space.anchors()
    rows += [dict(row) for index, row in enumerate(anchors) if row not in [*rows, *anchors[:index]]]
    if anchors and len(rows) > n:
        raise ConfigError(
            f"init_points: {n} trials are too few for the {len(rows)} anchors "
            f"(yours, pure A, pure B and the even mix); give init_points={len(rows)} or more"
        )
    rows = rows[:n]
    for point in _points(tuple(p.name for p in space.parameters), n - len(rows), seed, kind).tolist():
        values = {p.name: p.low + u * (p.high - p.low) for p, u in zip(space.parameters, point, strict=True)}
        rows.append({p.name: min(max(values[p.name], p.low), p.high) for p in space.parameters})
    return rows


def _points(names: tuple[str, ...], count: int, seed: int, kind: str) -> Array:
    """Points of the unit cube, shape ``(count, D)``."""
    if kind == "sobol":
        return sobol_points(derived_seed(seed, 0), 0, count, len(names))
    slow = basis(names) if kind == "blocks" else None
    if slow is None:
        return latin_hypercube(generator(seed), count, len(names))
    scan = _sides(names)[:count]
    return np.concatenate([scan, _smooth(generator(seed), count - len(scan), slow)])


def _sides(names: tuple[str, ...]) -> Array:
    """The merges of ``SIDES``, the middle between, shape ``(4, D)``; none where blocks do not have two sides."""
    sides = np.array([position.side if position else 0 for position in block_positions(names)])
    if not {-1, 1} <= set(sides.tolist()):
        return np.empty((0, len(names)))
    return np.array([np.select([sides < 0, sides > 0], pair, sum(pair) / 2) for pair in SIDES])


def _smooth(rng: np.random.Generator, count: int, slow: Array) -> Array:
    """Points that are smooth over the blocks, shape ``(count, D)``.

    u = Phi(sqrt(1/2) (B z / |B|) + sqrt(1/2) z')   with B the slow functions of the blocks, normalised per weight

    Half the variance is in the slow functions, half in each weight; z and z' are one Latin hypercube of normal numbers.
    A weight without a block is all z'.
    """
    from scipy.special import ndtr, ndtri  # slow to import

    normal = ndtri(latin_hypercube(rng, count, sum(slow.shape)).clip(1e-9, 1.0))
    waves, own = normal[:, : slow.shape[1]] @ slow.T, normal[:, slow.shape[1] :]
    size = np.linalg.norm(slow, axis=1)
    has_block = size > 1e-9
    mixed = math.sqrt(0.5) * (waves / np.where(has_block, size, 1.0) + own)
    return np.asarray(ndtr(np.where(has_block, mixed, own)))
