"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.pipelines.architectures.architecture import Conditioning, DrawnArchitecture
from bayes_merger.imaging.pipelines.architectures.sdxl import ClipPair
from bayes_merger.imaging.pipelines.flow import build_flow_scheduler, check_flow_sampler, second_pass
from bayes_merger.imaging.pipelines.loading import LoadedModel

if TYPE_CHECKING:
    from bayes_merger.imaging.prompts.embedding import Kin, PromptEncoder

_T5_TOKENS = 256  # as diffusers does by default


class StableDiffusion3(DrawnArchitecture):
    """SDXL's two text encoders, and behind them T5's words; where T5 is missing there are zeros, as in diffusers."""

    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    words_apart: ClassVar[bool] = False
    second_pipeline: ClassVar[str] = "StableDiffusion3Img2ImgPipeline"
    network: ClassVar[str] = "transformer"
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional: ClassVar[tuple[str, ...]] = ("text_encoder_3",)
    pooled_on_the_way: ClassVar[str] = "pooled_prompt_embeds"
    t5: ClassVar[str] = "text_encoder_3"
    multiple: ClassVar[int] = 16

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        super().__init__(model, tokenizers)
        from bayes_merger.imaging.prompts.t5 import T5Encoder

        self._clips = ClipPair(model, tokenizers)
        t5 = model.modules.get(self.t5)
        self._t5 = None if t5 is None else T5Encoder(tokenizers[self.t5], t5, _T5_TOKENS)

    @classmethod
    def defaults(cls, model: Checkpoint) -> dict[str, Any]:
        """The payload's fields that depend on the model."""
        return {
            **super().defaults(model),
            "sampler_name": "Euler",
            "scheduler": "Simple",
            "cfg_scale": 4.5,
            "steps": 28,
        }

    @classmethod
    def check(cls, payload: Payload, keys: Collection[str]) -> None:
        """Refuse what cannot be drawn."""
        super().check(payload, keys)
        check_flow_sampler(payload.sampler_name, payload.scheduler)

    def scheduler(self, payload: Payload) -> Any:
        """A fresh scheduler of diffusers for one batch."""
        network, vae = self.model.modules["transformer"].config, self.model.modules["vae"].config
        largest = network.pos_embed_max_size * network.patch_size * 2 ** (len(vae.block_out_channels) - 1)
        for name in ("width", "height"):
            if getattr(payload, name) > largest:
                raise ConfigError(f"{name}: {getattr(payload, name)} is more than the {largest} that this model knows")
        return build_flow_scheduler(payload.sampler_name, payload.scheduler, self.model.settings)

    def second_options(self, hires: Hires) -> dict[str, Any]:
        """Further arguments of the pipeline of the second pass."""
        return second_pass(hires, hires.schedule_steps)

    @property
    def clips(self) -> Sequence[PromptEncoder]:
        """CLIP's text encoders."""
        return self._clips.encoders

    def length(self, texts: Sequence[str]) -> int:
        """Chunks of tokens that the longest of some prompts needs."""
        if self._t5 is not None:
            self._t5.check(texts)
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
        import torch

        clips, pooled = self._clips.read(texts, length, emphasis, kin)
        width = int(self.model.modules["transformer"].config.joint_attention_dim)
        clips = torch.nn.functional.pad(clips, (0, width - clips.shape[-1]))
        t5 = (
            clips.new_zeros(len(texts), _T5_TOKENS, width)
            if self._t5 is None
            else self._t5.encode(texts, emphasis).to(clips)
        )
        return Conditioning(torch.cat([clips, t5], dim=-2), torch.cat(pooled, dim=-1))
