"""What pictures look like while they are drawn: latents made pictures by a linear map, which costs next to nothing.

A VAE's latents are close to a linear image of an eighth of the size
(https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204). The map is the least-squares fit to
what the model's own VAE has decoded so far, so it is right for any architecture and for a VAE that was trained further;
until a first picture is finished there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

ENOUGH = 32
"""Pictures that the map is fitted to."""

_RIDGE = 1e-3  # of the samples' number: colours that no picture has had yet stay moderate


class Onlooker(Protocol):
    """Is shown what a pipeline draws on the way; it may change nothing."""

    @property
    def is_looking(self) -> bool:
        """Whether it would be shown something now; asked after each step, so it is cheap."""

    def on_latents(self, latents: Tensor) -> None:
        """What the network believes some pictures to be, shape `(n, channels, height / 8, width / 8)`."""

    def on_decoded(self, latents: Tensor, images: Sequence[Image.Image]) -> None:
        """The latents of finished pictures, and these pictures."""


class Sketches:
    """The linear map from latents to colours.

    With the channels c of a place, and its colour y from 0 to 1::

        x = (c / max(1, standard deviation of the picture's latents), 1)
        y = x W,    W = (X'X + ridge)^-1 X'Y

    where the division keeps first guesses, which may be far too large, as large as finished pictures.
    """

    def __init__(self) -> None:
        self._squares: Any = 0.0
        self._products: Any = 0.0
        self._seen, self._scale = 0, 1.0

    @property
    def is_learning(self) -> bool:
        """Whether more finished pictures make it better."""
        return self._seen < ENOUGH

    def learn(self, latents: Tensor, images: Sequence[Image.Image]) -> None:
        """Fit it to finished pictures too; such that are not finite teach nothing."""
        features = _features(latents)
        height, width = features.shape[1:3]
        small = [image.convert("RGB").resize((width, height), Image.Resampling.BOX) for image in images]
        colours = np.stack([np.asarray(one, np.float64) for one in small]) / 255
        known, wanted = features.reshape(-1, features.shape[-1]), colours.reshape(-1, 3)
        if not np.isfinite(known).all():
            return
        self._squares = self._squares + known.T @ known
        self._products = self._products + known.T @ wanted
        self._seen, self._scale = self._seen + len(images), images[0].width / width

    def of(self, latents: Tensor, side: int) -> list[Image.Image]:
        """Pictures of latents, as large as the finished ones or at most so many pixels; none before it has learnt."""
        if not self._seen:
            return []
        features = _features(latents)
        ridge = _RIDGE * self._squares[-1, -1] * np.eye(features.shape[-1])
        colours = features @ np.linalg.solve(self._squares + ridge, self._products)
        pictures = [Image.fromarray(np.uint8(np.clip(np.nan_to_num(one), 0, 1) * 255)) for one in colours]
        scale = min(self._scale, side / max(pictures[0].size))
        size = [max(1, round(scale * pixels)) for pixels in pictures[0].size]
        return [picture.resize(size, Image.Resampling.BILINEAR) for picture in pictures]


def _features(latents: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Shape `(n, height, width, channels + 1)`."""
    values = latents.detach().double().cpu().numpy().transpose(0, 2, 3, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        calm = values / np.maximum(values.std(axis=(1, 2, 3), keepdims=True), 1)
    return np.concatenate([calm, np.ones((*calm.shape[:3], 1))], axis=-1)
