"""Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_merger.imaging.pipelines.architectures.architecture import Conditioning, DrawnArchitecture
from bayes_merger.imaging.pipelines.loading import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.imaging.prompts.embedding import Kin, PromptEncoder


class ClipPair:
    """CLIP's two text encoders of SDXL and SD3: both read every prompt, their embeddings stand side by side."""

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        from bayes_merger.imaging.prompts.embedding import PromptEncoder

        self.encoders = [
            PromptEncoder(tokenizers[part], model.modules[part], penultimate=True)
            for part in ("text_encoder", "text_encoder_2")
        ]

    def length(self, texts: Sequence[str]) -> int:
        """Chunks of tokens that the longest prompt needs."""
        return max(encoder.length(texts) for encoder in self.encoders)

    def read(
        self, texts: Sequence[str], length: int, emphasis: str = "Original", kin: Kin | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The embeddings `(n, 77 * length, width of both)`, and what each encoder says of a prompt as a whole."""
        import torch

        read = [encoder.read(texts, length=length, emphasis=emphasis, kin=kin) for encoder in self.encoders]
        return torch.cat([hidden for hidden, _ in read], dim=-1), [pooled for _, pooled in read]


class StableDiffusionXL(DrawnArchitecture):
    """Two text encoders; the U-Net is also told the second's view of the whole prompt, and the picture's size.

    The sizes (`add_time_ids`) are the picture's own, uncropped, as A1111 gives them and diffusers by default.
    """

    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    second_pipeline: ClassVar[str] = "StableDiffusionXLImg2ImgPipeline"
    pooled_on_the_way: ClassVar[str] = "add_text_embeds"
    vae_in_fp32: ClassVar[bool] = True
    components: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        super().__init__(model, tokenizers)
        self._clips = ClipPair(model, tokenizers)

    @property
    def clips(self) -> Sequence[PromptEncoder]:
        """CLIP's text encoders."""
        return self._clips.encoders

    def length(self, texts: Sequence[str]) -> int:
        """Chunks of tokens that the longest of some prompts needs."""
        return self._clips.length(texts)

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
        embeddings, (_, pooled) = self._clips.read(texts, length, emphasis, kin)
        if negative:  # SDXL was trained with zeros for no prompt, and A1111 takes them for an empty negative one
            for row, same in enumerate(kin or [{row: 1} for row in range(len(texts))]):
                if not any(texts[one] for one in same):
                    embeddings[row] = 0
                    pooled[row] = 0
        return Conditioning(embeddings, pooled)
