"""What the names of a space's parameters say of the blocks: which are neighbours, and which mirror each other.

In a U-Net the blocks have an order: ``IN00`` comes first, ``M00`` lies in the middle, and ``OUT11``, the last, takes
what ``IN00`` made. Neighbours do similar work, and so do the two ends of a skip connection. In the transformers' chains
(``D00`` ..., ``S00`` ...) only neighbours do. Parameters without a place (ratios, names of other spaces) are like none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_merger.search.space.cube import Array

_NUMBERED = re.compile(r"([A-Z]+)(\d+)(?:\.(\w+))?")
REACH = 2.0
"""Blocks this far from each other are like each other by exp(-1/2)."""

ACROSS = 0.7
"""How alike the two ends of a skip connection are, where 1 is the same."""


@dataclass(frozen=True)
class Place:
    """Where a parameter's block lies.

    Attributes:
        chain: neighbours are only in the same one; IN, M and OUT are one chain.
        weight: which of its weights; alpha and beta are strangers.
        depth: steps from the outside.
        side: -1 before the middle, 1 behind it, 0 in it or where there is no middle.
    """

    chain: str
    weight: str
    depth: float
    side: int


def places(names: Sequence[str]) -> list[Place | None]:
    """The place of each parameter, by its name as in ``IN00.alpha``; None for one that has none."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    folded = any(match and match[1] == "OUT" for match in found) and any(match and match[1] == "IN" for match in found)
    last = max((int(match[2]) for match in found if match and match[1] in ("IN", "OUT")), default=0)
    return [_place(match, folded, last) if match else None for match in found]


def _place(match: re.Match[str], folded: bool, last: int) -> Place:
    prefix, number, weight = match[1], int(match[2]), match[3] or ""
    if not folded or prefix not in ("IN", "M", "OUT"):
        return Place(prefix, weight, float(number), 0)
    depth = {"IN": float(number), "M": last + 1.0, "OUT": float(last - number)}[prefix]
    return Place("", weight, depth, {"IN": -1, "M": 0, "OUT": 1}[prefix])


def likeness(names: Sequence[str]) -> Array:
    """How alike the parameters' blocks are, shape ``(D, D)``: 1 the same, 0 strangers; a correlation matrix."""
    found = places(names)
    matrix = np.eye(len(names))
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            if i != j and a and b and (a.chain, a.weight) == (b.chain, b.weight):
                apart = ACROSS if a.side * b.side < 0 else 1.0
                matrix[i, j] = apart * np.exp(-0.5 * ((a.depth - b.depth) / REACH) ** 2)
    # M00 is a full neighbour of both sides, which are less so of each other: no correlation is quite like that.
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    deviations = np.sqrt(np.diag(matrix))
    return np.asarray(matrix / np.outer(deviations, deviations))


def waves(names: Sequence[str]) -> Array | None:
    """Slow waves over the blocks, orthonormal columns, shape ``(D, F)``; None where no block has a place.

    For each weight: all its parameters alike (the diagonal from pure A to pure B), then cosines of the depth, the same
    on both sides and with opposite signs.
    """
    found = places(names)
    columns: list[Array] = []
    for weight in dict.fromkeys(place.weight for place in found if place):
        own = np.array([bool(place) and place.weight == weight for place in found])  # type: ignore[union-attr]
        columns.append(_of_weight(names, weight))
        for chain in dict.fromkeys(place.chain for place in found if place and place.weight == weight):
            inside = own & np.array([bool(place) and place.chain == chain for place in found])  # type: ignore[union-attr]
            depth = np.array([place.depth if place else 0.0 for place in found])
            side = np.array([float(place.side) if place else 0.0 for place in found])
            deepest = max(float(depth[inside].max()), 1.0)
            cosines = [np.where(inside, np.cos(np.pi * k * depth / deepest), 0.0) for k in range(4)]
            columns += cosines + [side * cosine for cosine in cosines[:3]]
    if not columns:
        return None
    left, sizes, _ = np.linalg.svd(np.array(columns).T, full_matrices=False)
    return np.asarray(left[:, sizes > 1e-6 * sizes[0]])


def _of_weight(names: Sequence[str], weight: str) -> Array:
    """1 for every parameter of this weight, also those without a place, such as BASE."""
    return np.array([float(name.rpartition(".")[2] == weight or not weight) for name in names])
