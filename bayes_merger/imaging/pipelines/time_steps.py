"""Samplers that A1111 has in code of its own: steps through times of training.

They are those of `sd_samplers_timesteps_impl.py` and `sd_samplers_lcm.py` in
https://github.com/AUTOMATIC1111/stable-diffusion-webui/tree/master/modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_merger.imaging.pipelines.sigma_steps import SigmaSteps, towards
from bayes_merger.imaging.pipelines.sigmas import Array, sigmas_between, sigmas_of, times_between, times_of

_SKIP = 20  # times of training for one of an LCM
_DATA = 0.5  # the deviation of latents that an LCM is trained for


class TimeSteps(SigmaSteps):
    """DDIM (https://arxiv.org/abs/2010.02502) without noise, in A1111's own code: Euler's method between whole times.

    It begins with latents of variance 1, and gives them as they are at the last time, which is not that of sigma 0.
    """

    @property
    def init_noise_sigma(self) -> float:
        """Of latents that are not scaled."""
        return math.sqrt(self._way[0] ** 2 + 1)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """Latents for a second pass: A1111 adds the noise of the step before to what it takes for this step's."""
        number, _ = self._plan[self._begin_index]
        sigma, before = self._way[number], self._way[max(number - 1, 0)]
        return (original_samples + before * noise) * math.sqrt((sigma**2 + 1) / (before**2 + 1))

    def _call_from(self, begin: int) -> None:
        """Change the calls from one on where they are: by now the pipeline has taken its part of the times."""
        sigmas = np.array([self._way[number + call] for number, call in self._plan])
        self.sigmas[:-1] = torch.from_numpy(sigmas)
        self.timesteps[begin:] = torch.from_numpy(self._times(sigmas[begin:], self._trained()))

    def _sigmas(self, steps: int, trained: Array) -> Array:
        if steps == 1:
            raise ValueError("DDIM and PLMS would leave the noise as it is; give 2 or more")
        found: Array = trained[times_of(steps, len(trained))]
        return found

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        return self._scaled(number, towards(x, d, sigma, end))

    def _scaled(self, number: int, x: Tensor) -> Tensor:
        return x / math.sqrt(self._way[-1] ** 2 + 1) if number == len(self._way) - 2 else x


class TimeMultistep(TimeSteps):
    """PLMS (https://arxiv.org/abs/2202.09778): the noise by Adams' and Bashforth's formula of the last four.

    It begins with Heun's method.
    """

    _noises: Sequence[Tensor] = ()
    _shares = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin a second pass, with Heun's method too."""
        super().set_begin_index(begin_index)
        if begin_index:
            later = [(number, 0) for number in range(begin_index + 1, len(self._way) - 1)]
            self._plan[begin_index:] = [(begin_index, 0), (begin_index, 1), *later]
            self._call_from(begin_index)

    def _calls(self, number: int, sigma: float, end: float) -> list[float]:
        return [sigma] if number else [sigma, end]

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        self._begin = x
        self._noises = [(x - d) / sigma, *self._noises][:4]
        shares = self._shares[len(self._noises) - 1]
        noise = sum(share * one for share, one in zip(shares, self._noises, strict=True))
        return self._scaled(number, x + (end - sigma) * noise)

    def _last(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        return self._scaled(number, self._begin + (end - sigma) * (self._noises[0] + (x - d) / end) / 2)


class Consistency(SigmaSteps):
    """LCM (https://arxiv.org/abs/2310.04378): to the picture at every step, and noise up, at the 50 times of LCMs."""

    def _sigmas(self, steps: int, trained: Array) -> Array:
        return sigmas_of(self.schedule, steps, trained[_SKIP - 1 :: _SKIP])

    def _times(self, sigmas: Array, trained: Array) -> Array:
        known = np.log(trained[_SKIP - 1 :: _SKIP])
        times: Array = np.abs(np.log(sigmas)[:, None] - known).argmin(1) * _SKIP + _SKIP - 1.0
        return times

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        time = 10 * float(self.timesteps[self._step_index])
        near = _DATA**2 / (time**2 + _DATA**2)
        picture = time / math.sqrt(time**2 + _DATA**2) * d + near * x
        end = self._way[number + 1]
        return picture + end * self._white(x) if end else picture


class UniPC(TimeSteps):
    """UniPC (https://arxiv.org/abs/2302.04867) of order 3 with B(h) = h, which corrects a step when the next is called.

    The time from the first call to the end is divided evenly, in a second pass from where this begins.
    """

    _start = 0
    _beliefs: Sequence[Tensor] = ()

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin a second pass."""
        super().set_begin_index(begin_index)
        if begin_index:
            trained, whole = self._trained(), times_of(self.num_inference_steps, self.config.num_train_timesteps)
            times = np.linspace(whole[begin_index], 0, len(whole) - begin_index + 1)
            self._start = begin_index
            self._way[begin_index - 1 :] = [trained[whole[begin_index - 1]], *sigmas_between(times, trained).tolist()]
            self._call_from(begin_index)

    def _sigmas(self, steps: int, trained: Array) -> Array:
        count = len(times_of(steps, len(trained)))
        return sigmas_between(np.linspace(len(trained) - 1, 0, count + 1), trained)

    def _times(self, sigmas: Array, trained: Array) -> Array:
        return times_between(sigmas, trained)

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        if number > self._start:
            x = self._moved(number - 1, self._begin, d)
        self._begin, self._beliefs = x, [d, *self._beliefs][:3]
        return self._scaled(number, self._moved(number, x))

    def _moved(self, number: int, x: Tensor, reached: Tensor | None = None) -> Tensor:
        """Where a step leads: as predicted, or as corrected by the picture that was expected where it led."""
        # h = ln(sigma / sigma'), r_i = ln(sigma / sigma_i) / h, R rho = b with R_ij = r_j^(i-1) and
        # b_i = i! phi_(i+1)(-h); x' = sigma'/sigma x + (1 - sigma'/sigma) d_0 + h sum rho_i (d_i - d_0) / r_i
        sigma, end = self._way[number : number + 2]
        order = min(3, number - self._start + 1, len(self._way) - 1 - number)
        h = math.log(sigma / end)
        ratios = [math.log(sigma / self._way[number - back]) / h for back in range(1, order)]
        pictures = list(self._beliefs[1:order])
        if reached is not None:
            ratios, pictures = [*ratios, 1.0], [*pictures, reached]
        moved = towards(x, self._beliefs[0], sigma, end)
        for share, ratio, picture in zip(_shares(ratios, h), ratios, pictures, strict=True):
            moved = moved + h * share / ratio * (picture - self._beliefs[0])
        return moved


def _shares(ratios: Sequence[float], h: float) -> list[float]:
    """The rho of UniPC; of a single one it is 1/2."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    phi, wanted = math.expm1(-h) / -h, []
    for power in range(1, len(ratios) + 1):
        phi = (phi - 1 / math.factorial(power)) / -h
        wanted.append(math.factorial(power) * phi)
    shares: list[float] = np.linalg.solve(np.vander(ratios, increasing=True).T, wanted).tolist()
    return shares
