"""Landscapes of block weights with a known optimum, and the scores of pictures drawn from them.

``STANDARD`` do not know what a block is. ``MERGES`` are shaped as merges are believed to be (neighbouring blocks act
alike, IN and OUT mirror each other, few matter much, too much of a good thing breaks); what wins only there has won on
our beliefs. Every instance redraws what matters, where the optimum lies, and how the ridges run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Truth = Callable[[Array], Array]
"""Points, shape ``(n, D)`` in the unit cube, to their values, shape ``(n,)``; greater is better."""

PAYLOADS, SEEDS = 4, 2
"""Pictures of a trial: so many prompts, so many noise seeds of each."""

REACH, WAVES = 0.1, 64
"""The distance over which a picture's noise changes, and the waves of which it consists."""


def blocks(dimensions: int) -> tuple[str, ...]:
    """The blocks of a U-Net with that many, an even number: BASE, IN, M00 and OUT."""
    side = (dimensions - 2) // 2
    return ("BASE", *(f"IN{i:02}" for i in range(side)), "M00", *(f"OUT{i:02}" for i in range(side)))


@dataclass(frozen=True)
class Instance:
    """One problem: 0 is the optimum, -1 the median random point.

    Attributes:
        name: of its landscape.
        number: of the instance; also the seed of the design, the sampler and the noise.
        dimensions: number of weights.
        noise: standard deviation of a trial's score.
        truth: what a point is really worth, in the landscape's own units.
        optimum: the greatest value of that.
        median: the value of the median random point.
    """

    name: str
    number: int
    dimensions: int
    noise: float
    truth: Truth
    optimum: float
    median: float

    def regret(self, points: Array) -> Array:
        """How far below the optimum, shape ``(n, D)`` to ``(n,)``: 0 the optimum, 1 the median random point."""
        return (self.optimum - self.truth(np.atleast_2d(points))) / (self.optimum - self.median)

    def pictures(self, point: Array) -> list[dict[str, Any]]:
        """The scores of a trial's pictures, as a run stores them.

        A picture's score is the point's worth, plus how easy its prompt and seed are (the same in every trial), plus
        what this prompt likes about this point (a slope of its own; the slopes add up to 0), plus noise. As in a run,
        whose seeds are fixed, the noise belongs to the point: who draws it again gets the same pictures.
        """
        shared = np.random.default_rng([self.number, 7001])
        ease = shared.normal(0.0, 0.3, (PAYLOADS, 1)) + shared.normal(0.0, 0.15, (PAYLOADS, SEEDS))
        slopes = shared.normal(0.0, 0.06, (PAYLOADS, self.dimensions)) / np.sqrt(self.dimensions / 12)
        slopes -= slopes.mean(axis=0)
        frequencies, phases = _waves(self.number, self.dimensions)
        waves = np.cos(frequencies @ point + phases).sum(axis=-1) * np.sqrt(2.0 / WAVES)
        noise = self.noise * np.sqrt(PAYLOADS * SEEDS) * waves
        scores = -self.regret(point)[0] + ease + (slopes @ (point - 0.5))[:, None] + noise
        return [
            {"scorer": "synthetic", "payload": f"p{p}", "index": s, "seed": 1000 * p + s, "value": float(scores[p, s])}
            for p in range(PAYLOADS)
            for s in range(SEEDS)
        ]


@cache
def _waves(number: int, dimensions: int) -> tuple[Array, Array]:
    """Frequencies and phases of each picture's noise, nearly a Gaussian process with a squared exponential kernel.

    Rahimi and Recht (2007), Random features for large-scale kernel machines.
    """
    rng = np.random.default_rng([number, 7002])
    frequencies = rng.normal(0.0, 1.0 / REACH, (PAYLOADS, SEEDS, WAVES, dimensions))
    return frequencies, rng.uniform(0.0, 2.0 * np.pi, (PAYLOADS, SEEDS, WAVES))


def instance(name: str, number: int, dimensions: int = 26, noise: float = 0.05) -> Instance:
    """The instance of a landscape with that number."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), number])
    truth, best = {**STANDARD, **MERGES}[name](rng, dimensions)
    random = np.random.default_rng(0).random((8192, dimensions))
    optimum, median = float(truth(best[None])[0]), float(np.median(truth(random)))
    return Instance(name, number, dimensions, noise, truth, optimum, median)


def sparse_quad(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """Six weights matter, each to a different degree, and pair by pair."""
    some = rng.choice(dimensions, 6, replace=False)
    best = rng.uniform(0.15, 0.85, dimensions)
    turn, _ = np.linalg.qr(np.eye(6) + 0.35 * rng.standard_normal((6, 6)))
    matrix = turn.T @ np.diag(np.geomspace(1.0, 0.2, 6)) @ turn

    def truth(x: Array) -> Array:
        away = (x - best)[:, some]
        return -np.asarray(np.einsum("ni,ij,nj->n", away, matrix, away))

    return truth, best


def ridge_bump(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """A broad bump with a narrow ridge across it, oblique to all weights."""
    best = rng.uniform(0.15, 0.85, dimensions)
    across = rng.standard_normal(dimensions)
    across /= np.linalg.norm(across)

    def truth(x: Array) -> Array:
        away = x - best
        bump = np.exp(-(away**2).sum(axis=1) / 4.5)
        return np.asarray(bump * (0.65 + 0.35 * np.exp(-((away @ across) ** 2) / 0.1)))

    return truth, best


def ackley(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """A funnel full of local optima; all weights matter."""
    best = rng.uniform(0.15, 0.85, dimensions)

    def truth(x: Array) -> Array:
        away = 4.0 * (x - best)
        funnel = 20.0 * np.exp(-0.2 * np.sqrt((away**2).mean(axis=1)))
        return np.asarray(funnel + np.exp(np.cos(2.0 * np.pi * away).mean(axis=1)))

    return truth, best


def boundary(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """Ten weights want to be exactly 0 or 1, four lie between, the others do nothing."""
    order = rng.permutation(dimensions)
    edges = min(10, dimensions // 2)
    edge, inner = order[:edges], order[edges : edges + 4]
    best = np.full(dimensions, 0.5)
    best[edge] = rng.integers(0, 2, edges)
    best[inner] = rng.uniform(0.25, 0.75, len(inner))
    much = rng.uniform(0.5, 1.5, edges + len(inner))

    def truth(x: Array) -> Array:
        away = np.abs(x - best)
        slope = (much[:edges] * (0.4 * away[:, edge] + 0.6 * away[:, edge] ** 2)).sum(axis=1)
        return np.asarray(-slope - (much[edges:] * 3.0 * away[:, inner] ** 2).sum(axis=1))

    return truth, best


def _mirrored(rng: np.random.Generator, dimensions: int, low: float, high: float, roughness: float) -> Array:
    """A curve over the blocks that is smooth along IN and OUT and nearly the same on both sides of M00."""
    depth = np.linspace(0.0, 1.0, (dimensions - 2) // 2)
    waves = np.array([np.cos(np.pi * k * depth) for k in range(4)])
    scale = np.array([1.0, 0.8, 0.4, 0.2])
    sides = [(scale * (rng.standard_normal(4))) for _ in range(2)]
    down = sides[0] @ waves
    up = (0.8 * sides[0] + 0.6 * sides[1]) @ waves
    curve = np.concatenate([[down.mean()], down, [down[-1]], up[::-1]])
    curve = curve + roughness * rng.standard_normal(dimensions)
    curve = (curve - curve.min()) / max(np.ptp(curve), 1e-9)
    return low + (high - low) * np.asarray(curve)


def merge_smooth(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """The best weights are a smooth curve over the blocks, and how much they matter is another; jumps cost."""
    best = _mirrored(rng, dimensions, 0.1, 0.9, 0.15)
    much = np.exp(_mirrored(rng, dimensions, -3.0, 1.0, 0.2))
    much /= much.mean()

    def truth(x: Array) -> Array:
        away = x - best
        jumps = np.diff(away, axis=1)
        return -np.asarray((much * away**2).mean(axis=1) + 0.3 * (jumps**2).mean(axis=1))

    return truth, best


def merge_few(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """Three runs of neighbouring blocks matter, each through its mean (one wants to be pure A or B), and the overall
    mix a little."""
    runs = (dimensions - 2) // 3
    starts = rng.choice(runs, min(3, runs), replace=False) * 3 + 1
    groups = [np.arange(start, start + 3) for start in starts]
    goals = rng.uniform(0.2, 0.8, len(groups))
    goals[0] = rng.integers(0, 2)
    level = rng.uniform(0.3, 0.7)
    best = np.full(dimensions, level)
    for group, goal in zip(groups, goals, strict=True):
        best[group] = goal
    rest = np.setdiff1d(np.arange(dimensions), np.concatenate(groups))

    def truth(x: Array) -> Array:
        away = x - best
        own = sum(2.0 * away[:, group].mean(axis=1) ** 2 + 0.5 * (away[:, group] ** 2).mean(axis=1) for group in groups)
        return -np.asarray(own + 2.0 * away[:, rest].mean(axis=1) ** 2 + 0.1 * (away[:, rest] ** 2).mean(axis=1))

    return truth, best


def merge_sides(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """IN, OUT and BASE each have a mixture that suits them, and neighbours should not differ much."""
    side = (dimensions - 2) // 2
    inside, outside = np.arange(1, side + 1), np.arange(side + 2, dimensions)
    goals = rng.uniform(0.1, 0.9, 3)
    best = np.full(dimensions, goals[:2].mean())
    best[inside], best[outside], best[0] = goals
    much = np.exp(rng.normal(0.0, 0.7, 3))

    def truth(x: Array) -> Array:
        away = x - best
        means = np.stack([away[:, inside].mean(axis=1), away[:, outside].mean(axis=1), 0.3 * away[:, 0]])
        return -np.asarray(much @ np.abs(means) ** 1.5 + 0.3 * (np.diff(away, axis=1) ** 2).mean(axis=1))

    return truth, best


def merge_cliff(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """Merges near a smooth curve are good, those further away are broken, all nearly alike."""
    best = _mirrored(rng, dimensions, 0.1, 0.9, 0.1)
    much = np.exp(_mirrored(rng, dimensions, -2.0, 1.0, 0.2))
    much /= much.mean()

    def truth(x: Array) -> Array:
        away = (much * (x - best) ** 2).mean(axis=1)
        return np.asarray(1.0 / (1.0 + np.exp((away - 0.1) / 0.02)) - 2.0 * away)

    return truth, best


def two_basins(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """A narrow basin, and a broad and shallow one with IN and OUT the other way round, towards which the even mix
    leads."""
    side = (dimensions - 2) // 2
    tilt = np.concatenate([[0.0], np.full(side, -0.25), [0.0], np.full(side, 0.25)]) * rng.choice([-1.0, 1.0])
    best, second = 0.5 + tilt + rng.uniform(-0.1, 0.1, (2, dimensions)) * [[1.0], [0.5]]
    second = second - 2.0 * tilt

    def truth(x: Array) -> Array:
        narrow = np.exp(-((x - best) ** 2).mean(axis=1) / 0.06)
        return np.asarray(np.maximum(narrow, 0.6 * np.exp(-((x - second) ** 2).mean(axis=1) / 0.18)))

    return truth, best


def corner(rng: np.random.Generator, dimensions: int) -> tuple[Truth, Array]:
    """Half of the weights matter, and all of these want to be exactly 0 or 1."""
    some = rng.permutation(dimensions)[: dimensions // 2]
    best = np.full(dimensions, 0.5)
    best[some] = rng.integers(0, 2, len(some))
    much = np.exp(rng.normal(0.0, 0.7, len(some)))

    def truth(x: Array) -> Array:
        return -np.asarray((np.abs(x - best)[:, some] @ much) ** 0.7)

    return truth, best


STANDARD = {"sparse_quad": sparse_quad, "ridge_bump": ridge_bump, "ackley": ackley, "boundary": boundary}
MERGES = {
    "merge_smooth": merge_smooth,
    "merge_few": merge_few,
    "merge_sides": merge_sides,
    "merge_cliff": merge_cliff,
    "two_basins": two_basins,
    "corner": corner,
}
