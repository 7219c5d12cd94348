"""The start design: the rows that every search begins with, whoever optimises afterwards."""

from __future__ import annotations

from bayes_merger.errors import ConfigError
from bayes_merger.search.space import SearchSpace
from bayes_merger.search.unit import generator, latin_hypercube


def design(space: SearchSpace, n: int, seed: int) -> list[dict[str, float]]:
    """The start design: pure A, pure B, the even mix, then a Latin hypercube.

    Args:
        space: what is searched.
        n: rows in all; with fewer than three, the first of these.
        seed: of the hypercube.

    Returns:
        The values of each row. Of the hypercube's rows, exactly one falls into each of as many equal parts of every
        parameter's range.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ConfigError(f"init_points: {n!r} is not a whole number of 0 or above")
    rows = space.anchors()[:n]
    cube = latin_hypercube(generator(seed), n - len(rows), len(space.parameters))
    for point in cube.tolist():
        values = {p.name: p.low + u * (p.high - p.low) for p, u in zip(space.parameters, point, strict=True)}
        rows.append({p.name: min(max(values[p.name], p.low), p.high) for p in space.parameters})
    return rows
