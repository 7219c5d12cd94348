"""Samplers as web UIs have them, in the space of sigmas, written from their published formulas.

Euler, Heun: algorithms 1 and 2 of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
(https://arxiv.org/abs/2206.00364). LMS: linear multistep with the integrals of the Lagrange polynomials. DPM++ 2M:
algorithm 2 of Lu et al. (https://arxiv.org/abs/2211.01095).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
Denoiser = Callable[[Tensor, float], Tensor]

_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
_ALPHAS = torch.cumprod(1 - _BETAS, 0)
TRAINED = ((1 - _ALPHAS) / _ALPHAS).sqrt()
"""The sigmas that the network was trained on, from the smallest."""


def sigma_at(times: Tensor) -> Tensor:
    """Between two trained times, the sigma is interpolated in its logarithm."""
    low = times.floor().long()
    high, part = times.ceil().long(), times - low
    return ((1 - part) * TRAINED[low].log() + part * TRAINED[high].log()).exp()


def time_at(sigma: float) -> float:
    logs = TRAINED.log().numpy()
    return float(np.interp(np.log(sigma), logs, np.arange(1000)))


def sigmas_of(schedule: str, steps: int) -> list[float]:
    low, high = float(TRAINED[0]), float(TRAINED[-1])
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if schedule == "Uniform":
        found = sigma_at(torch.linspace(999, 0, steps, dtype=torch.float64))
    elif schedule == "Karras":
        found = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    elif schedule == "Exponential":
        found = (np.log(high) + ramp * (np.log(low) - np.log(high))).exp()
    elif schedule == "Simple":
        found = torch.stack([TRAINED[-(1 + int(step * 1000 / steps))] for step in range(steps)])
    elif schedule == "SGM Uniform":
        found = sigma_at(torch.linspace(999, 0, steps + 1, dtype=torch.float64)[:-1])
    elif schedule == "Beta":
        from scipy.stats import beta

        found = torch.tensor([low + beta.ppf(1 - x, 0.6, 0.6) * (high - low) for x in ramp.tolist()])
    else:
        raise ValueError(schedule)
    return [*found.tolist(), 0.0]


def denoiser(network: Network) -> Denoiser:
    """A network that predicts noise as one that predicts the picture."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        time = torch.tensor(time_at(sigma), dtype=x.dtype)
        return x - sigma * network(x / (sigma**2 + 1) ** 0.5, time)

    return denoise


def euler(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Callable[[], Tensor]) -> Tensor:
    for now, then in pairwise(sigmas):
        x = x + (x - denoise(x, now)) / now * (then - now)
    return x


def euler_a(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Callable[[], Tensor]) -> Tensor:
    for now, then in pairwise(sigmas):
        up = min(then, (then**2 * (now**2 - then**2) / now**2) ** 0.5)
        down = (then**2 - up**2) ** 0.5
        x = x + (x - denoise(x, now)) / now * (down - now)
        if then:
            x = x + noise() * up
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Callable[[], Tensor]) -> Tensor:
    for now, then in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        ahead = x + slope * (then - now)
        if then:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
        x = x + slope * (then - now)
    return x


def lms(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Callable[[], Tensor]) -> Tensor:
    slopes: list[Tensor] = []
    for at, now in enumerate(sigmas[:-1]):
        slopes.append((x - denoise(x, now)) / now)
        points = [sigmas[at - back] for back in range(min(at + 1, 4))]

        def share(sigma: float, own: float, points: list[float] = points) -> float:
            return float(np.prod([(sigma - other) / (own - other) for other in points if other != own]))

        for back, own in enumerate(points):
            x = x + slopes[-1 - back] * quad(share, now, sigmas[at + 1], args=(own,), epsrel=1e-4)[0]
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Callable[[], Tensor]) -> Tensor:
    before = None
    for at, (now, then) in enumerate(pairwise(sigmas)):
        picture = denoise(x, now)
        mixed = picture
        if before is not None and then:
            ratio = np.log(sigmas[at - 1] / now) / np.log(now / then)
            mixed = (1 + 1 / (2 * ratio)) * picture - before / (2 * ratio)
        x = then / now * x - (then / now - 1) * mixed
        before = picture
    return x


METHODS = {"Euler": euler, "Euler a": euler_a, "Heun": heun, "LMS": lms, "DPM++ 2M": dpmpp_2m}
