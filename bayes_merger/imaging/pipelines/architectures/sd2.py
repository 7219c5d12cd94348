"""Stable Diffusion 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.prediction import EPSILON
from bayes_merger.imaging.pipelines.architectures.sd1 import StableDiffusion
from bayes_merger.imaging.pipelines.loading import LoadedModel


def predicts_velocity(unet: Any) -> bool:
    """Whether a U-Net of Stable Diffusion 2 predicts velocity, by what it makes of plain grey at the noisiest time.

    There one that predicts noise gives back about its input, one that predicts velocity the negative of a picture. The
    test and its threshold are A1111's (``is_using_v_parameterization_for_sd2`` in ``modules/sd_models_config.py`` of
    https://github.com/AUTOMATIC1111/stable-diffusion-webui).
    """
    import torch

    def grey(*shape: int) -> torch.Tensor:
        return torch.full(shape, 0.5, dtype=unet.dtype, device=unet.device)

    with torch.no_grad():
        found = unet(grey(1, 4, 8, 8), 999, encoder_hidden_states=grey(1, 2, 1024)).sample - grey(1, 4, 8, 8)
    return float(found.float().mean()) < -1


class StableDiffusion2(StableDiffusion):
    """As the first, with another text encoder; the models that predict noise were trained at 512 pixels.

    Both kinds have the same tensors. Where nothing says what a model predicts, its network is asked.
    """

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        if not model.prediction_said:
            kind = "v_prediction" if predicts_velocity(model.modules["unet"]) else "epsilon"
            model = replace(model, prediction_type=kind)
        super().__init__(model, tokenizers)

    @classmethod
    def defaults(cls, model: Checkpoint) -> dict[str, Any]:
        """The payload's fields that depend on the model."""
        return {"width": 512, "height": 512} if model.prediction == EPSILON else super().defaults(model)
