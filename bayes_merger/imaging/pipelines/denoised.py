"""What a network believes the finished picture to be, at any step of any sampler."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Tap:
    """Remembers what the network said last, as a scheduler of diffusers was told it; the scheduler does what it did.

    Args:
        scheduler: of one drawing, and of nothing else.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler, step = scheduler, scheduler.step
        self._last: tuple[Tensor, Any, Tensor] | None = None

        @functools.wraps(step)  # pipelines look at what it takes
        def remembering(output: Tensor, timestep: Any, sample: Tensor, *others: Any, **named: Any) -> Any:
            self._last = output, timestep, sample
            return step(output, timestep, sample, *others, **named)

        scheduler.step = remembering

    def denoised(self) -> Tensor:
        """The picture's latents without the noise that the network sees in them, shape as the latents.

        With ``a`` the cumulative product of alphas at the step's time, of what is scaled as in training
        (https://arxiv.org/abs/2010.02502, equation 12; https://arxiv.org/abs/2202.00512)::

            epsilon:       x0 = (x - sqrt(1 - a) output) / sqrt(a)
            v_prediction:  x0 = sqrt(a) x - sqrt(1 - a) output
            flow matching: x0 = x - t output

        Schedulers that count in sigmas have ``x / sqrt(a)`` in the place of ``x``.
        """
        assert self._last is not None
        output, timestep, sample = self._last
        config = self._scheduler.config
        alphas = getattr(self._scheduler, "alphas_cumprod", None)
        if alphas is None:
            return sample - float(timestep) / float(config.num_train_timesteps) * output
        signal, noise = _levels(alphas, float(timestep))
        if float(self._scheduler.init_noise_sigma) > 1:
            sample = sample * signal
        if config.prediction_type == "v_prediction":
            return signal * sample - noise * output
        return (sample - noise * output) / signal


def _levels(alphas: Tensor, timestep: float) -> tuple[float, float]:
    """``sqrt(a)``, which is never quite 0, and ``sqrt(1 - a)`` at a time that may lie between two of training."""
    before = min(max(int(timestep), 0), len(alphas) - 1)
    after = min(before + 1, len(alphas) - 1)
    share = min(max(timestep - before, 0.0), 1.0)
    alpha = float(alphas[before]) * (1 - share) + float(alphas[after]) * share
    return max(alpha, 1e-4) ** 0.5, (1 - alpha) ** 0.5
