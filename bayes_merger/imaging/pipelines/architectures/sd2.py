"""Stable Diffusion 2."""

from __future__ import annotations

from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.prediction import EPSILON
from bayes_merger.imaging.pipelines.architectures.sd1 import StableDiffusion


class StableDiffusion2(StableDiffusion):
    """As the first, with another text encoder; the models that predict noise were trained at 512 pixels."""

    @classmethod
    def defaults(cls, model: Checkpoint) -> dict[str, Any]:
        """The payload's fields that depend on the model."""
        return {"width": 512, "height": 512} if model.prediction == EPSILON else super().defaults(model)
