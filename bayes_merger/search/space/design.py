"""The start design: the rows that every search begins with, whatever the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.search.space.cube import derived_seed, generator, latin_hypercube, sobol_points
from bayes_merger.search.space.space import SearchSpace

KINDS = ("lhs", "sobol")
"""What the rest of the design is: a Latin hypercube, or a scrambled Sobol sequence."""


def design(
    space: SearchSpace, n: int, seed: int, *, anchors: Sequence[Mapping[str, float]] = (), kind: str = "lhs"
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
    missing, dimensions = n - len(rows), len(space.parameters)
    if kind == "lhs":
        points = latin_hypercube(generator(seed), missing, dimensions)
    else:
        points = sobol_points(derived_seed(seed, 0), 0, missing, dimensions)
    for point in points.tolist():
        values = {p.name: p.low + u * (p.high - p.low) for p, u in zip(space.parameters, point, strict=True)}
        rows.append({p.name: min(max(values[p.name], p.low), p.high) for p in space.parameters})
    return rows
