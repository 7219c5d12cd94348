"""Stable Diffusion 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.architectures.architecture import Conditioning, DrawnArchitecture
from bayes_merger.imaging.pipelines.loading import LoadedModel

if TYPE_CHECKING:
    from bayes_merger.imaging.prompts.embedding import Kin, PromptEncoder


class StableDiffusion(DrawnArchitecture):
    """CLIP's last layer, or an earlier one by `clip_skip`, is all that the U-Net is told."""

    second_pipeline: ClassVar[str] = "StableDiffusionImg2ImgPipeline"
    components: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        super().__init__(model, tokenizers)
        from bayes_merger.imaging.prompts.embedding import PromptEncoder

        self._clip = PromptEncoder(tokenizers["text_encoder"], model.modules["text_encoder"])

    def scheduler(self, payload: Payload) -> Any:
        """A fresh scheduler of diffusers for one batch."""
        if payload.clip_skip > self._clip.layers:
            raise ConfigError(f"clip_skip is {payload.clip_skip}, the text encoder has {self._clip.layers} layers")
        return super().scheduler(payload)

    @property
    def clips(self) -> Sequence[PromptEncoder]:
        """CLIP's text encoders."""
        return [self._clip]

    def length(self, texts: Sequence[str]) -> int:
        """Chunks of tokens that the longest of some prompts needs."""
        return self._clip.length(texts)

    def encode(
        self,
        texts: Sequence[str],
        *,
        clip_skip: int,
        length: int,
        negative: bool,
        emphasis: str = "Original",
        kin: Kin | None = None,
    ) -> Conditioning:
        """What the denoiser is told of some prompts."""
        return Conditioning(self._clip.encode(texts, clip_skip=clip_skip, length=length, emphasis=emphasis, kin=kin))
