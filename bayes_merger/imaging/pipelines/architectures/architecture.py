"""What is asked of an architecture by the live pipeline, and what most of them answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.config_trees import clip_pads
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.pipelines.loading import LoadedModel
from bayes_merger.imaging.pipelines.schedulers import build_scheduler, check_steps, steps_of_second_pass

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.imaging.prompts.embedding import Kin, PromptEncoder


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told of some prompts.

    Attributes:
        embeddings: shape `(n, tokens, width)`.
        pooled: of each prompt as a whole, shape `(n, width)`; `None` where the denoiser has no use for it.
    """

    embeddings: Tensor
    pooled: Tensor | None = None

    def rows(self, part: slice | Sequence[int]) -> Conditioning:
        """The same of some of the prompts."""
        return Conditioning(self.embeddings[part], None if self.pooled is None else self.pooled[part])

    def repeated(self, times: int) -> Conditioning:
        """The same words several times: to attention that reads nothing else, they are what they are once."""
        return self if times == 1 else replace(self, embeddings=self.embeddings.repeat(1, times, 1))

    def arguments(self, front: str = "") -> dict[str, Tensor]:
        """For a call of diffusers' pipeline, which may write into it; `negative_` is in front of what to avoid."""
        pooled = {} if self.pooled is None else {f"{front}pooled_prompt_embeds": self.pooled.clone()}
        return {f"{front}prompt_embeds": self.embeddings, **pooled}


@dataclass(frozen=True)
class Told:
    """What the denoiser is told in one pass over some pictures, call by call; the last of it holds to the end.

    Attributes:
        wanted: of the prompts.
        unwanted: of the negative prompts, as often; empty where they are not drawn.
    """

    wanted: Sequence[Conditioning]
    unwanted: Sequence[Conditioning]

    def arguments(self) -> dict[str, Tensor]:
        """What is told at first, for a call of diffusers' pipeline."""
        negative = self.unwanted[0].arguments("negative_") if self.unwanted else {}
        return self.wanted[0].arguments() | negative

    def changed(self, call: int) -> list[Conditioning]:
        """What is told from a call on, of the negative prompts and of the prompts; nothing if it is as before."""
        sides = [self.unwanted, self.wanted] if self.unwanted else [self.wanted]
        last = len(self.wanted) - 1
        if call > last or all(side[call] is side[call - 1] for side in sides):
            return []
        return [side[call] for side in sides]

    def rows(self, part: slice) -> Told:
        """The same of some of the pictures."""
        return Told([one.rows(part) for one in self.wanted], [one.rows(part) for one in self.unwanted])


class DrawnArchitecture:
    """How models of an architecture are drawn; a subclass says where it differs from Stable Diffusion 1.

    Attributes:
        pipeline: name of the class in diffusers.
        network: the part that denoises.
        encoders: the parts that read prompts, each with its tokenizer.
        optional: parts that a model may lack.
        t5: the part that is a T5, which may come from a file of its own; empty where there is none.
        multiple: of pixels, in width and height.
        half: the dtype that `auto` stands for on a GPU.
        vae_in_fp32: whether the VAE overflows in fp16 and is kept in fp32.
        guided: whether negative prompts are drawn, at twice the cost.
        second_pipeline: name of the class in diffusers that draws a second pass; empty where there is none.
        pooled_on_the_way: what diffusers' pipeline calls pooled embeddings on the way.
        words_apart: whether words are attended to apart from the picture, and so may be as long as they are.
        time_unit: the timestep of pure noise, as the network is told it.
    """

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    network: ClassVar[str] = "unet"
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    optional: ClassVar[tuple[str, ...]] = ()
    t5: ClassVar[str] = ""
    multiple: ClassVar[int] = 8
    half: ClassVar[str] = "fp16"
    vae_in_fp32: ClassVar[bool] = False
    guided: ClassVar[bool] = True
    second_pipeline: ClassVar[str] = ""
    pooled_on_the_way: ClassVar[str] = ""
    words_apart: ClassVar[bool] = True
    time_unit: ClassVar[float] = 1000.0
    components: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, model: LoadedModel, tokenizers: Mapping[str, Any]) -> None:
        """Take a live model, and the tokenizer of each of its text encoders by the encoder's name."""
        self.model = model
        self.tokenizers = tokenizers

    @classmethod
    def tokenizers_of(cls, model: LoadedModel, config: Path | None, t5: Path | None) -> dict[str, Any]:
        """The tokenizer of each text encoder that a model has.

        Raises:
            ConfigError: one is not to be had.
        """
        from bayes_merger.checkpoints.tokenizer import PAD, load_tokenizer
        from bayes_merger.imaging.pipelines.t5 import load_t5_tokenizer

        pads, found = clip_pads(model.settings), {}
        for part in cls.encoders:
            name = part.replace("text_encoder", "tokenizer")
            if part in model.modules:
                own = part != cls.t5
                found[part] = (
                    load_tokenizer(config, name, pads.get(name, PAD)) if own else load_t5_tokenizer(config, t5)
                )
        return found

    @classmethod
    def defaults(cls, model: Checkpoint) -> dict[str, Any]:
        """The payload's fields that depend on the model, where a payload does not say them."""
        size = model.architecture.resolution
        return {"width": size, "height": size}

    @classmethod
    def check(cls, payload: Payload, keys: Collection[str]) -> None:
        """Refuse what the architecture cannot draw, before anything is loaded.

        Args:
            payload: the payload.
            keys: of the model, under any of the names that files have.

        Raises:
            ConfigError: such a payload.
        """
        for name in ("width", "height"):
            if getattr(payload, name) % cls.multiple:
                raise ConfigError(
                    f"{name}: {getattr(payload, name)} is no multiple of {cls.multiple}, which it must be"
                )

    @classmethod
    def check_passes(cls, payload: Payload, *, zero_snr: bool) -> None:
        """Refuse steps and a second pass that cannot be drawn.

        Raises:
            ConfigError: such a payload.
        """
        if payload.hires and (not cls.second_pipeline or zero_snr):
            raise ConfigError("enable_hr: a second pass is not drawn for this kind of model; set it to false")
        for one in (payload, payload.enlarged()) if payload.hires else (payload,):
            check_steps(one.sampler_name, one.steps, zero_snr=zero_snr)

    def scheduler(self, payload: Payload) -> Any:
        """A fresh scheduler of diffusers for one batch.

        Raises:
            ConfigError: a sampler that does not suit the model.
        """
        return build_scheduler(
            payload.sampler_name,
            payload.scheduler,
            prediction_type=self.model.prediction_type,
            zero_snr=self.model.zero_snr,
            rng=payload.rng,
        )

    @property
    def clips(self) -> Sequence[PromptEncoder]:
        """CLIP's text encoders, which read textual-inversion embeddings."""
        raise NotImplementedError

    def length(self, texts: Sequence[str]) -> int:
        """Chunks of tokens that the longest of some prompts needs; those of one batch have the same number.

        Raises:
            ConfigError: one is longer than can be read.
        """
        raise NotImplementedError

    def chunks(self, wanted: Sequence[str], unwanted: Sequence[str]) -> tuple[int, int]:
        """How many chunks of tokens the prompt and the negative prompt of a picture take, whatever they change to.

        Web UIs do not fill up the shorter one with empty chunks, of which the denoiser would read something.
        """
        sides = self.length(wanted), self.length(unwanted)
        return sides if self.words_apart else (max(sides), max(sides))

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
        """What the denoiser is told of some texts.

        Args:
            texts: some prompts' at some time.
            clip_skip: see `PromptEncoder.read`.
            length: chunks of tokens to fill, at least `self.length(texts)`.
            negative: whether they are what to avoid.
            emphasis: what weights do, see `embedding.weighted`.
            kin: which of them are of one prompt; by default none.
        """
        raise NotImplementedError

    def on_the_way(self, sides: Sequence[Conditioning], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the denoiser is told from now on, as the pipeline takes it between two steps.

        Args:
            sides: of the negative prompts, if they are drawn, and of the prompts.
            given: what the pipeline was called with.
        """
        import torch

        told = {"prompt_embeds": torch.cat([side.embeddings for side in sides])}
        if self.pooled_on_the_way:
            told[self.pooled_on_the_way] = torch.cat([side.pooled for side in sides if side.pooled is not None])
        return told

    def options(self, payload: Payload) -> dict[str, Any]:
        """Further arguments of diffusers' pipeline."""
        return {"guidance_scale": payload.cfg_scale}

    def second_options(self, hires: Hires) -> dict[str, Any]:
        """Further arguments of the pipeline of the second pass: of which steps it has the last ones."""
        # diffusers draws `int(steps * strength)` of them; half a step more makes it those that were asked for
        steps = steps_of_second_pass(hires.sampler_name, hires.schedule_steps, hires.steps)
        return {"strength": min(1.0, (steps + 0.5) / hires.schedule_steps)}

    def unpacked(self, latents: Tensor, payload: Payload) -> Tensor:
        """Latents `(n, channels, height / 8, width / 8)` of those that the pipeline gives."""
        return latents
