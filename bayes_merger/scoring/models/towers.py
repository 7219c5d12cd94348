"""What all towers have in common: weights, a device, and pictures that become vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.models.embedding import Embedder, pixel_key, shared, usable_device
from bayes_merger.scoring.weights import WeightFile

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Tower(ABC):
    """A large model that turns a picture into a vector; heads and cosines make scores of it.

    Args:
        weights: path or address of the weights.
        sha256: what a download must have; see :class:`~bayes_merger.scoring.weights.WeightFile`.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for the first GPU if there is one.
        batch_size: how many pictures go through at once.
        setting: what the configuration calls this tower, for messages.
    """

    def __init__(
        self, weights: str | Path | None, sha256: str | None, device: str, batch_size: int, setting: str
    ) -> None:
        self.file = WeightFile(str(weights or ""), f"{setting}.weights", sha256)
        self.device = device
        self.batch_size = batch_size
        self.setting = setting
        self._held: dict[str, Embedder] = {}

    @property
    def name(self) -> str:
        """What kind of model it is, for messages."""
        return type(self).__name__

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of a vector, from the architecture alone."""

    def prepare(self) -> None:
        """Checks settings and weights without loading them; fetches the weights when they are not here yet.

        Raises:
            ConfigError: a setting that makes no sense, no such device, no weights, or weights of another model.
        """
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ConfigError(f"{self.setting}.batch_size must be 1 or more, not {self.batch_size!r}")
        if self.device != "auto":  # which every machine has, and needs no torch
            usable_device(self.device, self.setting)
        self.file.find()

    def embed_images(self, images: Sequence[Image], *, normalise: bool = True) -> Tensor:
        """Vectors of shape N x width, float32 on the CPU; pictures of any size and mode.

        Args:
            images: the pictures.
            normalise: whether each vector gets length 1.
        """
        import torch

        if not images:
            return torch.empty(0, self.width)
        vectors = self._embedder("images")(images, [pixel_key(image) for image in images], self.batch_size)
        return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors

    def _embedder(self, what: str) -> Embedder:
        """The loaded model, shared with every tower of the same kind, weights and device."""
        if what not in self._held:
            path = self.file.find().resolve()
            device = usable_device(self.device, self.setting)
            key = (what, self._kind(), str(path), path.stat().st_mtime_ns, device)
            self._held[what] = shared(key, self._maker(what, device))
        return self._held[what]

    @abstractmethod
    def _kind(self) -> Hashable:
        """What, beside the weights, tells its vectors from those of other towers."""

    @abstractmethod
    def _maker(self, what: str, device: str) -> Callable[[], Embedder]:
        """Loads the model that embeds `images`, or `texts`."""
