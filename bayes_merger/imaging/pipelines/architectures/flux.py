"""Flux, dev and schnell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.pipelines.architectures.architecture import Conditioning, DrawnArchitecture
from bayes_merger.imaging.pipelines.flow import build_flow_scheduler, check_flow_sampler, second_pass
from bayes_merger.imaging.pipelines.loading import LoadedModel
from bayes_merger.imaging.pipelines.schedulers import calls_per_step

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.imaging.prompts.embedding import Kin, PromptEncoder

_T5_TOKENS = 512  # as diffusers does by default


def _is_distilled(keys: Collection[str]) -> bool:
    """Whether it is schnell, which has no guidance; dev takes it as a number."""
    return not any("guidance_in." in key for key in keys)


class Flux(DrawnArchitecture):
    """T5's words and CLIP's view of the whole prompt.

    There is no negative prompt: guidance is distilled into the network, and `cfg_scale` is what Forge calls "Distilled
    CFG".
    """

    pipeline: ClassVar[str] = "FluxPipeline"
    second_pipeline: ClassVar[str] = "FluxImg2ImgPipeline"
    network: ClassVar[str] = "transformer"
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    t5: ClassVar[str] = "text_encoder_2"
    multiple: ClassVar[int] = 16
    half: ClassVar[str] = "bf16"  # it overflows in fp16
    guided: ClassVar[bool] = False
    time_unit: ClassVar[float] = 1.0

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        super().__init__(model, tokenizers)
        from bayes_merger.imaging.prompts.embedding import PromptEncoder
        from bayes_merger.imaging.prompts.t5 import T5Encoder

        self._clip = PromptEncoder(tokenizers["text_encoder"], model.modules["text_encoder"])
        self._t5 = T5Encoder(tokenizers[self.t5], model.modules[self.t5], _T5_TOKENS)

    @classmethod
    def defaults(cls, model: Checkpoint) -> dict[str, Any]:
        """The payload's fields that depend on the model."""
        own = {"cfg_scale": 1.0, "steps": 4} if _is_distilled(model.shapes) else {"cfg_scale": 3.5, "steps": 20}
        return {**super().defaults(model), "sampler_name": "Euler", "scheduler": "Simple", **own}

    @classmethod
    def check(cls, payload: Payload, keys: Collection[str]) -> None:
        """Refuse what cannot be drawn."""
        super().check(payload, keys)
        check_flow_sampler(payload.sampler_name, payload.scheduler)
        if any((payload.negative_prompt, *payload.negative_prompts)):
            raise ConfigError("negative_prompt: Flux does not take one; leave it out")
        if _is_distilled(keys) and payload.cfg_scale != 1:
            raise ConfigError(f"cfg_scale: is {payload.cfg_scale:g}, and Flux schnell has no guidance; write 1")

    def scheduler(self, payload: Payload) -> Any:
        """A fresh scheduler of diffusers for one batch."""
        return build_flow_scheduler(payload.sampler_name, payload.scheduler, self.model.settings)

    def second_options(self, hires: Hires) -> dict[str, Any]:
        """Further arguments of the pipeline of the second pass."""
        calls = calls_per_step(hires.sampler_name)  # each of them is a step to this pipeline, but for the last
        return second_pass(hires, calls * (hires.schedule_steps - 1) + 1)

    @property
    def clips(self) -> Sequence[PromptEncoder]:
        """CLIP's text encoders."""
        return [self._clip]

    def length(self, texts: Sequence[str]) -> int:
        """Chunks of tokens that the longest of some prompts needs."""
        self._t5.check(texts)
        return 1

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
        return Conditioning(self._t5.encode(texts, emphasis), self._clip.read(texts, length=1)[1])

    def on_the_way(self, sides: Sequence[Conditioning], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the denoiser is told from now on: diffusers' pipeline takes T5's words, and keeps CLIP's tensor."""
        (told,) = sides
        assert told.pooled is not None
        given["pooled_prompt_embeds"].copy_(told.pooled)
        return {"prompt_embeds": told.embeddings}

    def unpacked(self, latents: Tensor, payload: Payload) -> Tensor:
        """Latents as the VAE takes them."""
        # 2x2 neighbours are one token: (n, h/2s * w/2s, 4c) -> (n, c, h/s, w/s), where s is the VAE's scale, 8
        scale = 2 ** len(self.model.modules["vae"].config.block_out_channels)
        high, wide = payload.height // scale, payload.width // scale
        latents = latents.view(len(latents), high, wide, latents.shape[2] // 4, 2, 2)
        return latents.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), latents.shape[3], 2 * high, 2 * wide)
