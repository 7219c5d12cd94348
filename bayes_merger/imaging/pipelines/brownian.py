"""The noise of stochastic differential equations as web UIs draw it: one Brownian motion per picture, by its seed.

What a motion does between two times depends on nothing but the seed, however many steps are made of it. It is that of
torchsde's `BrownianTree` (https://github.com/google-research/torchsde, Kidger et al., "Efficient and Accurate Gradients
for Neural SDEs", https://arxiv.org/abs/2105.13493), in the settings of k-diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bayes_merger.imaging.noise import stream

if TYPE_CHECKING:
    from torch import Tensor

_DIGITS = 6  # to which a time is resolved
_POOL = 24  # words of entropy
_KEPT = 1024  # places in memory: all trials of a study draw the same


class BrownianMotion:
    """A motion that is 0 at its start.

    Args:
        rng: where its noise comes from, see `noise`.
        seed: of the picture.
        shape: of one picture's latents.
        start: the first time.
        end: the last time.
    """

    def __init__(self, rng: str, seed: int, shape: Sequence[int], start: float, end: float) -> None:
        self._rng, self._seed, self._shape = rng, seed, tuple(shape)
        self._start, self._end = round(start, _DIGITS), round(end, _DIGITS)
        self._whole = self._noise() * math.sqrt(self._end - self._start)

    def at(self, time: float) -> Tensor:
        """Where it is at a time, by halving what the time lies in.

        A motion that goes from 0 to W over a time h is at ``a / h W + sqrt(a b / h) noise`` after a of it, b before its
        end (the Brownian bridge).
        """
        time = round(time, _DIGITS)
        start, end, key, depth = self._start, self._end, 0, 0
        whole, before = self._whole, self._whole * 0
        while start < time < end:
            middle = round((start + end) / 2, _DIGITS)
            if not start < middle < end:
                break
            first, second, length = middle - start, end - middle, end - start
            left = first / length * whole + math.sqrt(first * second / length) * self._noise(key, depth)
            if time < middle:
                end, whole, key = middle, left, 2 * key
            else:
                start, whole, before, key = middle, whole - left, before + left, 2 * key + 1
            depth += 1
        return before if time <= start else before + whole

    def _noise(self, *key: int) -> Tensor:
        entropy = np.random.SeedSequence(entropy=self._seed, spawn_key=key, pool_size=_POOL)
        return stream(self._rng, int(entropy.generate_state(1)[0]))(self._shape)


def increment(
    rng: str, seed: int, shape: tuple[int, ...], whole: tuple[float, float], start: float, end: float
) -> Tensor:
    """What a motion over a whole time does in a part of it, of variance 1; of sigmas, the end is the smaller one."""
    before, after = (_at(rng, seed, shape, whole, time) for time in (start, end))
    return (after - before) / math.sqrt(abs(end - start))


@lru_cache(maxsize=_KEPT)
def _at(rng: str, seed: int, shape: tuple[int, ...], whole: tuple[float, float], time: float) -> Tensor:
    return BrownianMotion(rng, seed, shape, *whole).at(time)
