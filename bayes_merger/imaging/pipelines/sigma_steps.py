"""Samplers as web UIs have them: steps through sigmas, with which latents are not scaled.

The methods are those of k-diffusion (https://github.com/crowsonkb/k-diffusion/blob/master/k_diffusion/sampling.py),
with the schedules of web UIs. Below, d is the picture that the network expects at a sigma, and sigma' a step's end.
An ancestral step goes to `down` and puts noise of `up` back: down^2 + up^2 = sigma'^2, and
up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from bayes_merger.imaging.pipelines.brownian import increment
from bayes_merger.imaging.pipelines.sigmas import Array, sigmas_of, time_of, without_penultimate

_LEAST_SIGNAL = 4.8973451890853435e-08  # of zero, which has no sigma


class SigmaSteps(EulerDiscreteScheduler):  # type: ignore[misc]
    """One picture's way; a subclass says where a step leads.

    Attributes:
        order: calls of the network per step; the step that ends at sigma 0 has one.
        schedule: of `sigmas.SCHEDULES`.
        rng: where a Brownian motion's noise comes from.
    """

    order = 1
    schedule = "Uniform"
    rng = "cpu"
    sigmas: Tensor
    timesteps: Tensor
    _step_index: Any
    _begin_index: int

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """The sigma and the time of every call of the network."""
        trained = self._trained()
        self.num_inference_steps = num_inference_steps
        self._way: list[float] = self._sigmas(num_inference_steps, trained).tolist()
        calls = [self._calls(number, *step) for number, step in enumerate(pairwise(self._way))]
        self._plan = [(number, call) for number, step in enumerate(calls) for call in range(len(step))]
        self.sigmas = torch.tensor([*chain(*calls), self._way[-1]], dtype=torch.float32)
        times = self._times(np.array([*chain(*calls)]), trained)
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self._step_index, self._begin_index = None, 0  # never found by its time, which two calls may share

    @property
    def init_noise_sigma(self) -> float:
        """Of the latents that a picture begins with; a plain number, the same on every device."""
        return self._way[0]

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """Latents as the network was trained on them."""
        if self.step_index is None:
            self._init_step_index(timestep)
        self.is_scale_input_called = True
        return sample / math.sqrt(float(self.sigmas[self.step_index]) ** 2 + 1)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """What comes after a call of the network."""
        if self.step_index is None:
            self._init_step_index(timestep)
        self._generator = generator
        number, call = self._plan[self._step_index]
        sigma = float(self.sigmas[self._step_index])
        x, output = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (sample, model_output))
        if self.config.prediction_type == "v_prediction":
            picture = x / (sigma**2 + 1) - sigma / math.sqrt(sigma**2 + 1) * output
        else:
            picture = x - sigma * output
        following = self._next(number, x, picture) if call == 0 else self._last(number, x, picture)
        self._step_index += 1
        return (following.to(model_output.dtype),)

    def _trained(self) -> Array:
        """The sigmas of training, from the smallest, rounded as in web UIs."""
        start, end = (self.config[name] ** 0.5 for name in ("beta_start", "beta_end"))
        betas = np.linspace(start, end, self.config.num_train_timesteps) ** 2
        alphas = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)
        if self.config.rescale_betas_zero_snr:  # https://arxiv.org/abs/2305.08891, algorithm 1
            roots = alphas.sqrt()
            alphas = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
            alphas[-1] = _LEAST_SIGNAL
        found: Array = ((1 - alphas) / alphas).sqrt().double().numpy()
        return found

    def _sigmas(self, steps: int, trained: Array) -> Array:
        """Where the steps begin and the last one ends."""
        return sigmas_of(self.schedule, steps, trained)

    def _times(self, sigmas: Array, trained: Array) -> Array:
        """What the network is told instead of some sigmas."""
        return time_of(sigmas, trained)

    def _calls(self, number: int, sigma: float, end: float) -> list[float]:
        """At which sigmas the network is called in a step."""
        return [sigma]

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        """Where the first call of a step leads."""
        raise NotImplementedError

    def _last(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        """Where the second call of a step leads."""
        raise NotImplementedError

    def _white(self, x: Tensor) -> Tensor:
        noise: Tensor = randn_tensor(x.shape, generator=self._generator, device=x.device, dtype=x.dtype)
        return noise

    def _brownian(self, x: Tensor, sigma: float, end: float) -> Tensor:
        """What the Brownian motion of each picture, over the whole schedule, does between two sigmas."""
        generators = self._generator if isinstance(self._generator, Sequence) else [self._generator]
        whole = (min(found for found in self._way if found > 0), self._way[0])
        seeds = [generator.initial_seed() for generator in generators]
        noise = [increment(self.rng, seed, tuple(x.shape[1:]), whole, sigma, end) for seed in seeds]
        return torch.stack(noise).to(x.device, x.dtype)


def towards(x: Tensor, d: Tensor, sigma: float, end: float) -> Tensor:
    """Euler's step: sigma' / sigma * x + (1 - sigma' / sigma) * d."""
    return end / sigma * x + (1 - end / sigma) * d


def _ancestral(sigma: float, end: float) -> tuple[float, float]:
    """`down` and `up` of a step."""
    up = min(end, math.sqrt(max(end**2 * (sigma**2 - end**2), 0.0)) / sigma)
    return math.sqrt(end**2 - up**2), up


class Euler(SigmaSteps):
    """Euler's method."""

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        return towards(x, d, *self._way[number : number + 2])


class EulerAncestral(SigmaSteps):
    """Euler's method down, and noise up."""

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        down, up = _ancestral(sigma, end)
        x = towards(x, d, sigma, down)
        return x + up * self._white(x) if end else x


class Heun(SigmaSteps):
    """The mean of the slopes at both ends of a step, algorithm 1 of https://arxiv.org/abs/2206.00364."""

    order = 2

    def _calls(self, number: int, sigma: float, end: float) -> list[float]:
        return [sigma, end] if end else [sigma]

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        self._begin = x, (x - d) / sigma
        return towards(x, d, sigma, end)

    def _last(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        begin, slope = self._begin
        return begin + (end - sigma) * (slope + (x - d) / end) / 2


class Midpoint(SigmaSteps):
    """The slope in the middle of a step, of logarithms of sigma: DPM-Solver-2, https://arxiv.org/abs/2206.00927."""

    order = 2

    def _sigmas(self, steps: int, trained: Array) -> Array:
        return without_penultimate(sigmas_of(self.schedule, steps + 1, trained))

    def _down(self, sigma: float, end: float) -> tuple[float, float]:
        return end, 0.0

    def _calls(self, number: int, sigma: float, end: float) -> list[float]:
        down, _ = self._down(sigma, end)
        return [sigma, math.sqrt(sigma * down)] if down else [sigma]

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        down, _ = self._down(sigma, end)
        self._begin = x
        return towards(x, d, sigma, math.sqrt(sigma * down))

    def _last(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        down, up = self._down(sigma, end)
        x = self._begin + (down - sigma) * (x - d) / math.sqrt(sigma * down)
        return x + up * self._white(x) if up else x


class MidpointAncestral(Midpoint):
    """The same down, and noise up."""

    def _down(self, sigma: float, end: float) -> tuple[float, float]:
        return _ancestral(sigma, end)


class SingleStepAncestral(MidpointAncestral):
    """DPM-Solver++(2S), https://arxiv.org/abs/2211.01095, algorithm 1: the picture expected in the middle of a step."""

    def _sigmas(self, steps: int, trained: Array) -> Array:
        return sigmas_of(self.schedule, steps, trained)

    def _last(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        down, up = self._down(sigma, end)
        x = towards(self._begin, d, sigma, down)
        return x + up * self._white(x) if up else x


class SingleStepSDE(SigmaSteps):
    """DPM-Solver++ of a stochastic differential equation: two ancestral steps, to the middle and to the end."""

    order = 2

    def _calls(self, number: int, sigma: float, end: float) -> list[float]:
        return [sigma, math.sqrt(sigma * end)] if end else [sigma]

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        self._begin = x
        return self._step(x, d, sigma, math.sqrt(sigma * end))

    def _last(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        return self._step(self._begin, d, *self._way[number : number + 2])

    def _step(self, x: Tensor, d: Tensor, sigma: float, end: float) -> Tensor:
        down, up = _ancestral(sigma, end)
        x = towards(x, d, sigma, down)
        return x + up * self._brownian(x, sigma, end) if end else x


class LinearMultistep(SigmaSteps):
    """The last slopes, each by the integral of its Lagrange polynomial over the step."""

    _most = 4
    _slopes: Sequence[tuple[float, Tensor]] = ()

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        self._slopes = [(sigma, (x - d) / sigma), *self._slopes][: self._most]
        points = [point for point, _ in self._slopes]
        for point, slope in self._slopes:
            others = np.array([other for other in points if other != point])
            whole = np.polynomial.polynomial.polyint(np.polynomial.polynomial.polyfromroots(others - sigma))
            share = np.polynomial.polynomial.polyval(end - sigma, whole) / np.prod(point - others)
            x = x + float(share) * slope
        return x


class Multistep(SigmaSteps):
    """DPM-Solver++(2M), https://arxiv.org/abs/2211.01095, algorithm 2.

    With h = log(sigma / sigma'), and r = h before / h now, D = d + (d - d before) / 2r takes the place of d.
    """

    _before: tuple[Tensor, float] | None = None

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        expected = d
        if end:
            length = math.log(sigma / end)
            if self._before is not None:
                expected = d + length / self._before[1] / 2 * (d - self._before[0])
            self._before = d, length
        return towards(x, expected, sigma, end)


class MultistepSDE(SigmaSteps):
    """DPM-Solver++(2M) of a stochastic differential equation.

    With h = log(sigma / sigma'), r = h before / h now and q = 1 - exp(-2h):
    x' = (1 - q) x + q d + c (d - d before) / r + sigma' sqrt(q) noise
    """

    _before: tuple[Tensor, float] | None = None

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        if not end:
            return d
        length = math.log(sigma / end)
        share = -math.expm1(-2 * length)
        following = (1 - share) * x + share * d
        if self._before is not None:
            following = following + self._weight(length) * length / self._before[1] * (d - self._before[0])
        self._before = d, length
        return following + end * math.sqrt(share) * self._brownian(x, sigma, end)

    def _weight(self, length: float) -> float:
        return -math.expm1(-2 * length) / 2


class MultistepSDEHeun(MultistepSDE):
    """The same with the correction of Heun's kind."""

    def _weight(self, length: float) -> float:
        return 1 + math.expm1(-2 * length) / (2 * length)


class ThirdOrderSDE(SigmaSteps):
    """DPM-Solver++(3M) of a stochastic differential equation, as in k-diffusion.

    With h, q and r as above, r2 = h before that / h now, and H = 2h, of slopes a = (d - d1) / r and b = (d1 - d2) / r2
    and a bend c = (a - b) / (r + r2), and with f = 1 - q / H and g = f / H - 1/2:
    x' = (1 - q) x + q d + f (a + r c) - g c + sigma' sqrt(q) noise
    """

    _before: Sequence[tuple[Tensor, float]] = ()

    def _sigmas(self, steps: int, trained: Array) -> Array:
        return without_penultimate(sigmas_of(self.schedule, steps + 1, trained))

    def _next(self, number: int, x: Tensor, d: Tensor) -> Tensor:
        sigma, end = self._way[number : number + 2]
        if not end:
            return d
        length = math.log(sigma / end)
        share = -math.expm1(-2 * length)
        first = 1 - share / (2 * length)
        following = (1 - share) * x + share * d
        if self._before:
            d1, length1 = self._before[0]
            ratio = length1 / length
            slope = (d - d1) / ratio
            if len(self._before) > 1:
                d2, length2 = self._before[1]
                other = length2 / length
                bend = (slope - (d1 - d2) / other) / (ratio + other)
                following = following - (first / (2 * length) - 0.5) * bend
                slope = slope + ratio * bend
            following = following + first * slope
        self._before = [(d, length), *self._before][:2]
        return following + end * math.sqrt(share) * self._brownian(x, sigma, end)
