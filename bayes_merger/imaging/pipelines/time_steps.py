"""Samplers that A1111 has in code of its own: steps through times of training.

They are those of `sd_samplers_timesteps_impl.py` and `sd_samplers_lcm.py` in
https://github.com/AUTOMATIC1111/stable-diffusion-webui/tree/master/modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from bayes_merger.imaging.pipelines.sigma_steps import SigmaSteps, towards
from bayes_merger.imaging.pipelines.sigmas import Array, sigmas_of, times_of

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

    A whole way begins with Heun's method, a second pass, which diffusers begins anywhere, with Euler's.
    """

    _noises: Sequence[Tensor] = ()
    _shares = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))

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


class UniPC(UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC (https://arxiv.org/abs/2302.04867) by diffusers, with as many steps as A1111 makes of those asked for."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """The times, whole ones where A1111's lie between two."""
        super().set_timesteps(len(times_of(num_inference_steps, self.config.num_train_timesteps)), device)
