"""Through which noise a picture goes: the schedule types of web UIs, as sigmas from the largest to the last.

They are those of https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/sd_schedulers.py. A
sigma is the noise's standard deviation where the picture's latents are as they are; the network was trained at certain
ones, each of which has a time. Where a Brownian motion depends on the last digit, it is rounded as in web UIs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[np.float64]]

_RHO = 7.0  # of Karras et al., https://arxiv.org/abs/2206.00364, equation 5
_BETA = 0.6  # both parameters, https://arxiv.org/abs/2407.12173


def time_of(sigmas: Array, trained: Array) -> Array:
    """The times of some sigmas: between two of training it is the logarithm that is interpolated."""
    return np.interp(np.log(sigmas), np.log(trained), np.arange(len(trained)))


def _at(times: Array, trained: Array) -> Array:
    found: Array = np.exp(np.interp(times, np.arange(len(trained)), np.log(trained)))
    return found


def sigmas_between(times: Array, trained: Array) -> Array:
    """The sigmas of some times, as UniPC has them: between two of training it is the signal's logarithm."""
    signals = np.interp(times, np.arange(len(trained)), np.log1p(trained**2))
    found: Array = np.sqrt(np.expm1(signals))
    return found


def times_between(sigmas: Array, trained: Array) -> Array:
    """The times of some sigmas, as UniPC has them."""
    return np.interp(np.log1p(sigmas**2), np.log1p(trained**2), np.arange(len(trained)))


def _uniform(steps: int, trained: Array) -> Array:
    return _at(np.linspace(len(trained) - 1, 0, steps), trained)


def _sgm_uniform(steps: int, trained: Array) -> Array:
    return _at(np.linspace(len(trained) - 1, 0, steps + 1)[:-1], trained)


def _simple(steps: int, trained: Array) -> Array:
    return trained[[-1 - int(step * len(trained) / steps) for step in range(steps)]]


def _ddim(steps: int, trained: Array) -> Array:
    return trained[1 :: max(len(trained) // steps, 1)][::-1]


def _karras(steps: int, trained: Array) -> Array:
    low, high = float(trained[0]) ** (1 / _RHO), float(trained[-1]) ** (1 / _RHO)
    found: Array = ((high + torch.linspace(0, 1, steps) * (low - high)) ** _RHO).double().numpy()
    return found


def _exponential(steps: int, trained: Array) -> Array:
    return torch.linspace(math.log(trained[-1]), math.log(trained[0]), steps).exp().double().numpy()


def _beta(steps: int, trained: Array) -> Array:
    from scipy.stats import beta

    found: Array = trained[0] + beta.ppf(1 - np.linspace(0, 1, steps), _BETA, _BETA) * (trained[-1] - trained[0])
    return found


SCHEDULES: Mapping[str, Callable[[int, Array], Array]] = {
    "Uniform": _uniform,
    "Karras": _karras,
    "Exponential": _exponential,
    "Simple": _simple,
    "SGM Uniform": _sgm_uniform,
    "Beta": _beta,
    "DDIM": _ddim,
}
"""Name -> sigmas of so many steps, of the sigmas of training from the smallest; the 0 at the end is not among them."""


def sigmas_of(schedule: str, steps: int, trained: Array) -> Array:
    """The sigmas at which a picture's steps begin, and the 0 at which the last one ends."""
    return np.append(SCHEDULES[schedule](steps, trained).astype(np.float32), 0.0).astype(np.float64)


def without_penultimate(sigmas: Array) -> Array:
    """The sigmas but for the last one above the end, as web UIs leave it out for some samplers."""
    return np.delete(sigmas, -2)


def times_of(steps: int, count: int) -> Array:
    """The times of A1111's own samplers, the largest first: one more than steps, or as many where these divide it."""
    return np.minimum(np.arange(0, count, max(count // steps, 1)) + 1, count - 1)[::-1]
