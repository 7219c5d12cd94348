"""The order of the blocks, from the names of a space's parameters: neighbours, and ends of skip connections.

In a U-Net the blocks have an order: ``IN00`` comes first, ``M00`` is in the middle, and ``OUT11``, the last, takes
the output of ``IN00``. Neighbours do similar work, and so do the two ends of a skip connection. In the chains of
transformers (``D00`` ..., ``S00`` ...) only neighbours do. Parameters without a position (ratios, names of other
spaces) are correlated with none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayes_merger.search.space.cube import Array

_NUMBERED = re.compile(r"([A-Z]+)(\d+)(?:\.(\w+))?")
REACH = 2.0
"""Blocks at this distance have the correlation exp(-1/2)."""

ACROSS = 0.7
"""Correlation of the two ends of a skip connection."""


@dataclass(frozen=True)
class BlockPosition:
    """The position of a parameter's block.

    Attributes:
        chain: only blocks of the same chain are neighbours; IN, M and OUT are one chain.
        weight: the weight's name; alpha and beta are not correlated.
        depth: count of blocks from the outside.
        side: -1 before the middle, 1 after it, 0 in it or where there is no middle.
    """

    chain: str
    weight: str
    depth: float
    side: int


def block_positions(names: Sequence[str]) -> list[BlockPosition | None]:
    """The position of each parameter, by its name as in ``IN00.alpha``; None for one without a position."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    folded = any(match and match[1] == "OUT" for match in found) and any(match and match[1] == "IN" for match in found)
    last = max((int(match[2]) for match in found if match and match[1] in ("IN", "OUT")), default=0)
    return [_position(match, folded, last) if match else None for match in found]


def _position(match: re.Match[str], folded: bool, last: int) -> BlockPosition:
    prefix, number, weight = match[1], int(match[2]), match[3] or ""
    if not folded or prefix not in ("IN", "M", "OUT"):
        return BlockPosition(prefix, weight, float(number), 0)
    depth = {"IN": float(number), "M": last + 1.0, "OUT": float(last - number)}[prefix]
    return BlockPosition("", weight, depth, {"IN": -1, "M": 0, "OUT": 1}[prefix])


def correlation(names: Sequence[str]) -> Array:
    """Prior correlation of the parameters' log length scales, shape ``(D, D)``.

    exp(-(depth_i - depth_j)^2 / (2 REACH^2)), times ACROSS for two sides; 0 between chains and between weights. Then
    the nearest matrix that is positive definite, with ones on its diagonal.
    """
    found = block_positions(names)
    matrix = np.eye(len(names))
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            if i != j and a and b and (a.chain, a.weight) == (b.chain, b.weight):
                apart = ACROSS if a.side * b.side < 0 else 1.0
                matrix[i, j] = apart * np.exp(-0.5 * ((a.depth - b.depth) / REACH) ** 2)
    # M00 is a full neighbour of both sides, which are less correlated with each other: not a positive definite matrix.
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    deviations = np.sqrt(np.diag(matrix))
    return np.asarray(matrix / np.outer(deviations, deviations))


def basis(names: Sequence[str]) -> Array | None:
    """Slow basis functions over the blocks, orthonormal columns, shape ``(D, F)``; None where no block has a position.

    For each weight: all its parameters equally (the diagonal from pure A to pure B), then cosines of the depth, the
    same on both sides and with opposite signs.
    """
    found = block_positions(names)
    columns: list[Array] = []
    for weight in dict.fromkeys(position.weight for position in found if position):
        own = np.array([bool(position) and position.weight == weight for position in found])  # type: ignore[union-attr]
        columns.append(_of_weight(names, weight))
        for chain in dict.fromkeys(position.chain for position in found if position and position.weight == weight):
            inside = own & np.array([bool(position) and position.chain == chain for position in found])  # type: ignore[union-attr]
            depth = np.array([position.depth if position else 0.0 for position in found])
            side = np.array([float(position.side) if position else 0.0 for position in found])
            deepest = max(float(depth[inside].max()), 1.0)
            cosines = [np.where(inside, np.cos(np.pi * k * depth / deepest), 0.0) for k in range(4)]
            columns += cosines + [side * cosine for cosine in cosines[:3]]
    if not columns:
        return None
    left, sizes, _ = np.linalg.svd(np.array(columns).T, full_matrices=False)
    return np.asarray(left[:, sizes > 1e-6 * sizes[0]])


def _of_weight(names: Sequence[str], weight: str) -> Array:
    """1 for every parameter of this weight, also those without a position, such as BASE."""
    return np.array([float(name.rpartition(".")[2] == weight or not weight) for name in names])
