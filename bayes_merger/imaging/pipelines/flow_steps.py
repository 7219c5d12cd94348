"""Steps of flow matching beyond Euler's, on Euler's own schedule, which pipelines of diffusers shift as a model needs.

A model of flow matching predicts the velocity v of x = (1 - sigma) * picture + sigma * noise, so the picture it expects
is x - sigma * v. The methods are those of k-diffusion, which web UIs take for such models as for others.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


class FlowSteps(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """One picture's way; a subclass says where the next step leads."""

    sigmas: Tensor
    timesteps: Tensor

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **_: Any) -> tuple[Tensor]:
        """What comes after a call of the network."""
        if self.step_index is None:
            self._init_step_index(timestep)
        at = self._step_index
        following = self._next(at, sample.float(), model_output.float())
        self._step_index += 1
        return (following.to(model_output.dtype),)

    def _next(self, at: int, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class FlowHeun(FlowSteps):
    """Heun's method: the mean of the velocities at both ends of a step, but for the last, which ends at sigma 0."""

    order = 2

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: list[float] | None = None,  # pipelines look for these two by their names
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """Every sigma but the first and the last twice: the end of a step, and the beginning of the next."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        times, once = self.timesteps, self.sigmas
        self.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        self.sigmas = torch.cat([once[:1], once[1:-1].repeat_interleave(2), once[-1:]])

    def _next(self, at: int, x: Tensor, v: Tensor) -> Tensor:
        if at % 2 == 0:
            self._begin = x, v, self.sigmas[at + 1] - self.sigmas[at]
            return x + self._begin[2] * v
        begin, before, length = self._begin
        return begin + length * (before + v) / 2


class FlowMultistep(FlowSteps):
    """DPM++ 2M: the picture expected at the end of a step, by this call and the one before.

    With h = log(sigma / sigma') for a step from sigma to sigma', and r = h before / h now:
    D = (1 + 1 / 2r) d - 1 / 2r * d before;  x' = sigma' / sigma * x + (1 - sigma' / sigma) * D
    """

    _before: tuple[Tensor, float] | None = None

    def _next(self, at: int, x: Tensor, v: Tensor) -> Tensor:
        sigma, end = float(self.sigmas[at]), float(self.sigmas[at + 1])
        picture = expected = x - sigma * v
        if end > 0:
            length = math.log(sigma / end)
            if self._before is not None:
                half = length / self._before[1] / 2
                expected = (1 + half) * picture - half * self._before[0]
            self._before = picture, length
        return end / sigma * x + (1 - end / sigma) * expected
