"""Landscapes of 26 block weights with a known optimum, and the scores of pictures drawn from them.

``STANDARD`` judge the optimisers: four shapes that do not know what a block is. ``MERGES`` are shaped as merges are
believed to be (neighbouring blocks act alike, IN and OUT mirror each other, few matter much); what wins only there has
won on our beliefs. Every instance redraws what matters, where the optimum lies, and how the ridges run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Truth = Callable[[Array], Array]
"""Points, shape ``(n, 26)`` in the unit cube, to their values, shape ``(n,)``; greater is better."""

BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
DIMENSIONS = len(BLOCKS)
NOISE = 0.05
"""Standard deviation of a trial's score, where 1 is what lies between the optimum and the median random point."""

PAYLOADS, SEEDS = 4, 2
"""Pictures of a trial: so many prompts, so many noise seeds of each."""


@dataclass(frozen=True)
class Instance:
    """One problem: 0 is the optimum, -1 the median random point.

    Attributes:
        name: of its landscape.
        number: of the instance; also the seed of the design, the sampler and the noise.
        truth: what a point is really worth, in the landscape's own units.
        optimum: the greatest value of that.
        median: the value of the median random point.
    """

    name: str
    number: int
    truth: Truth
    optimum: float
    median: float

    def regret(self, points: Array) -> Array:
        """How far below the optimum, shape ``(n, 26)`` to ``(n,)``: 0 the optimum, 1 the median random point."""
        return (self.optimum - self.truth(np.atleast_2d(points))) / (self.optimum - self.median)

    def pictures(self, point: Array, trial: int) -> list[dict[str, Any]]:
        """The scores of a trial's pictures, as a run stores them.

        A picture's score is the point's worth, plus how easy its prompt and seed are (the same in every trial), plus
        what this prompt likes about this point (a slope of its own; the slopes add up to 0), plus noise. The noise
        belongs to the instance and the trial's number, not to who asks.
        """
        shared = np.random.default_rng([self.number, 7001])
        ease = shared.normal(0.0, 0.3, (PAYLOADS, 1)) + shared.normal(0.0, 0.15, (PAYLOADS, SEEDS))
        slopes = shared.normal(0.0, 0.06, (PAYLOADS, DIMENSIONS)) / np.sqrt(DIMENSIONS / 12)
        slopes -= slopes.mean(axis=0)
        noise = np.random.default_rng([self.number, 7002, trial]).normal(
            0.0, NOISE * np.sqrt(PAYLOADS * SEEDS), (PAYLOADS, SEEDS)
        )
        scores = -self.regret(point)[0] + ease + (slopes @ (point - 0.5))[:, None] + noise
        return [
            {"scorer": "synthetic", "payload": f"p{p}", "index": s, "seed": 1000 * p + s, "value": float(scores[p, s])}
            for p in range(PAYLOADS)
            for s in range(SEEDS)
        ]


def instance(name: str, number: int) -> Instance:
    """The instance of a landscape with that number."""
    kinds = {**STANDARD, **MERGES}
    rng = np.random.default_rng([zlib.crc32(name.encode()), number])
    truth, best = kinds[name](rng)
    random = np.random.default_rng(0).random((8192, DIMENSIONS))
    return Instance(name, number, truth, float(truth(best[None])[0]), float(np.median(truth(random))))


def sparse_quad(rng: np.random.Generator) -> tuple[Truth, Array]:
    """Six weights matter, each to a different degree, and pair by pair."""
    some = rng.choice(DIMENSIONS, 6, replace=False)
    best = rng.uniform(0.15, 0.85, DIMENSIONS)
    turn, _ = np.linalg.qr(np.eye(6) + 0.35 * rng.standard_normal((6, 6)))
    matrix = turn.T @ np.diag(np.geomspace(1.0, 0.2, 6)) @ turn

    def truth(x: Array) -> Array:
        away = (x - best)[:, some]
        return -np.asarray(np.einsum("ni,ij,nj->n", away, matrix, away))

    return truth, best


def ridge_bump(rng: np.random.Generator) -> tuple[Truth, Array]:
    """A broad bump with a narrow ridge across it, oblique to all 26 weights."""
    best = rng.uniform(0.15, 0.85, DIMENSIONS)
    across = rng.standard_normal(DIMENSIONS)
    across /= np.linalg.norm(across)

    def truth(x: Array) -> Array:
        away = x - best
        bump = np.exp(-(away**2).sum(axis=1) / 4.5)
        return np.asarray(bump * (0.65 + 0.35 * np.exp(-((away @ across) ** 2) / 0.1)))

    return truth, best


def ackley(rng: np.random.Generator) -> tuple[Truth, Array]:
    """A funnel full of local optima; all 26 weights matter."""
    best = rng.uniform(0.15, 0.85, DIMENSIONS)

    def truth(x: Array) -> Array:
        away = 4.0 * (x - best)
        funnel = 20.0 * np.exp(-0.2 * np.sqrt((away**2).mean(axis=1)))
        return np.asarray(funnel + np.exp(np.cos(2.0 * np.pi * away).mean(axis=1)))

    return truth, best


def boundary(rng: np.random.Generator) -> tuple[Truth, Array]:
    """Ten weights want to be exactly 0 or 1, four lie between, twelve do nothing."""
    order = rng.permutation(DIMENSIONS)
    edge, inner = order[:10], order[10:14]
    best = np.full(DIMENSIONS, 0.5)
    best[edge] = rng.integers(0, 2, 10)
    best[inner] = rng.uniform(0.25, 0.75, 4)
    much = rng.uniform(0.5, 1.5, 14)

    def truth(x: Array) -> Array:
        away = np.abs(x - best)
        slope = (much[:10] * (0.4 * away[:, edge] + 0.6 * away[:, edge] ** 2)).sum(axis=1)
        return np.asarray(-slope - (much[10:] * 3.0 * away[:, inner] ** 2).sum(axis=1))

    return truth, best


def _mirrored(rng: np.random.Generator, low: float, high: float, roughness: float) -> Array:
    """A curve over the blocks that is smooth along IN and OUT and nearly the same on both sides of M00."""
    depth = np.linspace(0.0, 1.0, 12)
    waves = np.array([np.cos(np.pi * k * depth) for k in range(4)])
    scale = np.array([1.0, 0.8, 0.4, 0.2])
    sides = [(scale * (rng.standard_normal(4))) for _ in range(2)]
    down = sides[0] @ waves
    up = (0.8 * sides[0] + 0.6 * sides[1]) @ waves
    curve = np.concatenate([[down.mean()], down, [down[-1]], up[::-1]])
    curve = curve + roughness * rng.standard_normal(DIMENSIONS)
    curve = (curve - curve.min()) / max(np.ptp(curve), 1e-9)
    return low + (high - low) * np.asarray(curve)


def merge_smooth(rng: np.random.Generator) -> tuple[Truth, Array]:
    """The best weights are a smooth curve over the blocks, and how much they matter is another; jumps cost."""
    best = _mirrored(rng, 0.1, 0.9, 0.15)
    much = np.exp(_mirrored(rng, -3.0, 1.0, 0.2))
    much /= much.mean()

    def truth(x: Array) -> Array:
        away = x - best
        jumps = np.diff(away, axis=1)
        return -np.asarray((much * away**2).mean(axis=1) + 0.3 * (jumps**2).mean(axis=1))

    return truth, best


def merge_few(rng: np.random.Generator) -> tuple[Truth, Array]:
    """Three runs of neighbouring blocks matter, each through its mean (one wants to be pure A or B), and the overall
    mix a little."""
    starts = rng.choice(8, 3, replace=False) * 3 + 1
    groups = [np.arange(start, start + 3) for start in starts]
    goals = rng.uniform(0.2, 0.8, 3)
    goals[0] = rng.integers(0, 2)
    level = rng.uniform(0.3, 0.7)
    best = np.full(DIMENSIONS, level)
    for group, goal in zip(groups, goals, strict=True):
        best[group] = goal
    rest = np.setdiff1d(np.arange(DIMENSIONS), np.concatenate(groups))

    def truth(x: Array) -> Array:
        away = x - best
        own = sum(2.0 * away[:, group].mean(axis=1) ** 2 + 0.5 * (away[:, group] ** 2).mean(axis=1) for group in groups)
        return -np.asarray(own + 2.0 * away[:, rest].mean(axis=1) ** 2 + 0.1 * (away[:, rest] ** 2).mean(axis=1))

    return truth, best


STANDARD = {"sparse_quad": sparse_quad, "ridge_bump": ridge_bump, "ackley": ackley, "boundary": boundary}
MERGES = {"merge_smooth": merge_smooth, "merge_few": merge_few}
