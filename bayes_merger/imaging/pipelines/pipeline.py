"""A live Stable Diffusion pipeline: load once, then write weights and draw for each candidate.

Pictures are those of plain diffusers, to the last bit: the drawing is its `StableDiffusionPipeline`, given explicit
schedulers, embeddings, and one CPU noise generator per picture (so results do not depend on the GPU's).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, TrialFailed
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.keymap import single_file_views
from bayes_merger.imaging.pipelines.schedulers import build_scheduler

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from bayes_merger.checkpoints.checkpoint import Checkpoint
    from bayes_merger.imaging.pipelines.loading import LoadedModules
    from bayes_merger.imaging.prompts.embedding import PromptEncoder

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_CACHED = 64  # batches of embeddings cached; a study has only a few


@dataclass(frozen=True)
class DrawnImage:
    """One picture and its inputs.

    Attributes:
        payload: the payload's name.
        index: which of the payload's pictures, from 0.
        seed: of its noise.
        prompt: as drawn, wildcards replaced, A1111's syntax kept.
        image: RGB.
    """

    payload: str
    index: int
    seed: int
    prompt: str
    image: Image


@dataclass(frozen=True)
class _Order:
    """One picture to be drawn."""

    payload: Payload
    index: int
    chunks: int

    @property
    def prompt(self) -> str:
        return self.payload.prompts[self.index]

    @property
    def negative_prompt(self) -> str:
        return self.payload.negative_prompts[self.index]

    @property
    def seed(self) -> int:
        return self.payload.seeds[self.index]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Pictures of one kind can share a batch."""
        p = self.payload
        return (p.width, p.height, p.steps, p.sampler_name, p.scheduler, p.cfg_scale, p.clip_skip, self.chunks)

    def __str__(self) -> str:
        return f"payload {self.payload.name}, picture {self.index} (seed {self.seed})"


class LivePipeline:
    """A loaded pipeline whose parameters may be overwritten in place between drawings.

    Attributes:
        pipe: the diffusers pipeline; do not offload, fuse or cast its modules.
        device: where it lives.
        dtype: what it computes in.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        zero_snr: whether the model was trained to zero terminal signal-to-noise ratio.
    """

    def __init__(self, modules: LoadedModules, pipe: Any, encoder: PromptEncoder, *, max_batch: int) -> None:
        """Use `load_pipeline`."""
        self.pipe = pipe
        self.device: torch.device = pipe.unet.device
        self.dtype: torch.dtype = pipe.unet.dtype
        self.prediction_type = modules.prediction_type
        self.zero_snr = modules.zero_snr
        self._shapes = modules.shapes
        self._encoder = encoder
        self._max_batch = max_batch
        self._embeddings: dict[tuple[Any, ...], Tensor] = {}

    def destinations(self) -> dict[str, Tensor]:
        """Single-file key -> view on the live parameter, in the shape it has in the loaded file.

        Call it anew for every merge (milliseconds). After writing to the text encoder, call `text_encoder_changed`.

        Raises:
            ConfigError: the pipeline was offloaded or its projections fused, so that what is written would be lost.
        """
        for part in ("unet", "vae", "text_encoder"):
            for name, module in getattr(self.pipe, part).named_modules():
                if getattr(module, "fused_projections", False):
                    raise ConfigError(f"{part}.{name}: projections are fused; call unfuse_qkv_projections()")
        views = single_file_views(self.pipe)
        if lost := [key for key, view in views.items() if view.is_meta]:
            raise ConfigError(f"{lost[0]} is offloaded, a merge written there would be lost; remove the offloading")
        return {key: view.view(self._shapes[key]) for key, view in views.items()}

    def text_encoder_changed(self) -> None:
        """Forget the prompts' embeddings, which are kept as long as the text encoder stays the same."""
        self._embeddings.clear()

    def check(self, payloads: Sequence[Payload]) -> None:
        """Check at start-up what would otherwise fail in the first trial.

        Raises:
            ConfigError: a sampler that does not suit this model or number of steps, or a `clip_skip` too large.
        """
        for payload in payloads:
            scheduler = self._scheduler(payload)
            try:
                scheduler.set_timesteps(payload.steps)
            except ValueError as error:
                raise ConfigError(f"payload {payload.name}: {payload.steps} steps: {error}") from error
            if payload.clip_skip > self._encoder.layers:
                raise ConfigError(
                    f"payload {payload.name}: clip_skip is {payload.clip_skip}, the text encoder has "
                    f"{self._encoder.layers} layers"
                )

    def draw(
        self, payloads: Sequence[Payload], *, on_step: Callable[[int, int], None] | None = None
    ) -> list[DrawnImage]:
        """The pictures of some payloads, in their order.

        Pictures of the same size, steps, sampler, cfg, clip skip and prompt length share batches. The same payloads
        give the same batches, and so the same pictures bit for bit, in whatever order they are given.

        Args:
            payloads: resolved, see `payload.resolve`.
            on_step: called as `on_step(done, total)`, counting sampler steps of batches.

        Raises:
            TrialFailed: a picture holds NaN or is of one flat colour (what a broken merge draws).
            ConfigError: a payload that is not resolved, or a sampler that does not suit the model.
        """
        orders = [self._order(payload, index) for payload in payloads for index in range(payload.batch_size)]
        batches = _batches(orders, self._max_batch)
        total = sum(batch[0].payload.steps for batch in batches)
        drawn: dict[int, DrawnImage] = {}
        done = 0
        for batch in batches:
            steps = batch[0].payload.steps
            progress = None if on_step is None else _Progress(on_step, done, steps, total)
            for order, image in zip(batch, self._draw_batch(batch, progress), strict=True):
                drawn[id(order)] = DrawnImage(order.payload.name, order.index, order.seed, order.prompt, image)
            done += steps
        return [drawn[id(order)] for order in orders]

    def _order(self, payload: Payload, index: int) -> _Order:
        if not len(payload.prompts) == len(payload.negative_prompts) == len(payload.seeds) == payload.batch_size:
            raise ConfigError(f"payload {payload.name}: not resolved; pass it through imaging.resolve first")
        texts = (payload.prompts[index], payload.negative_prompts[index])
        return _Order(payload, index, self._encoder.length(texts))

    def _scheduler(self, payload: Payload) -> Any:
        try:
            return build_scheduler(
                payload.sampler_name,
                payload.scheduler,
                prediction_type=self.prediction_type,
                zero_snr=self.zero_snr,
            )
        except ConfigError as error:
            raise ConfigError(f"payload {payload.name}: {error}") from error

    def _embed(self, texts: tuple[str, ...], clip_skip: int, chunks: int) -> Tensor:
        key = (texts, clip_skip, chunks)
        if key not in self._embeddings:
            if len(self._embeddings) >= _CACHED:
                self._embeddings.clear()
            self._embeddings[key] = self._encoder.encode(texts, clip_skip=clip_skip, length=chunks)
        return self._embeddings[key]

    def _draw_batch(self, batch: Sequence[_Order], progress: _Progress | None) -> list[Image]:
        import torch

        first = batch[0]
        payload = first.payload
        last_latents: list[Tensor] = []

        def after_step(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
            last_latents[:] = [values["latents"]]
            if progress is not None:
                progress.step(step + 1, pipe.num_timesteps)
            return {}

        self.pipe.scheduler = self._scheduler(payload)
        result = self.pipe(
            prompt_embeds=self._embed(tuple(order.prompt for order in batch), payload.clip_skip, first.chunks),
            negative_prompt_embeds=self._embed(
                tuple(order.negative_prompt for order in batch), payload.clip_skip, first.chunks
            ),
            width=payload.width,
            height=payload.height,
            num_inference_steps=payload.steps,
            guidance_scale=payload.cfg_scale,
            guidance_rescale=0.7 if self.zero_snr else 0.0,  # https://arxiv.org/abs/2305.08891
            generator=[torch.Generator("cpu").manual_seed(order.seed) for order in batch],
            output_type="pt",
            callback_on_step_end=after_step,
        )
        _check_finite(batch, last_latents[0], "the latents are")
        _check_finite(batch, result.images, "the VAE's output is")
        processor = self.pipe.image_processor
        images: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(result.images))
        for order, image in zip(batch, images, strict=True):
            if all(len(set(band.getextrema())) == 1 for band in image.split()):
                raise TrialFailed(f"{order}: one flat colour {image.getpixel((0, 0))}")
        return images


@dataclass(frozen=True)
class _Progress:
    """Continues the count of the batches before."""

    report: Callable[[int, int], None]
    before: int
    steps: int
    total: int

    def step(self, at: int, of: int) -> None:
        """Some samplers evaluate the model more than once per step: `at` of `of` evaluations are done."""
        self.report(self.before + at * self.steps // of, self.total)


def load_pipeline(
    model: Path | str | Checkpoint,
    *,
    config: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_batch: int = 4,
    prediction_type: str | None = None,
) -> LivePipeline:
    """Load an SD1.x checkpoint as a live pipeline; reads local files only.

    Args:
        model: `.safetensors`, `.ckpt` or `.pt`; or a model that is open.
        config: a diffusers config tree (`unet/config.json` ...) for models of unusual size; `None` is SD1.5's.
        device: `"auto"` (CUDA, else Apple's MPS, else CPU) or a torch device.
        dtype: `"auto"` (fp32 on CPU, fp16 elsewhere), `"fp32"`, `"fp16"` or `"bf16"`.
        max_batch: most pictures drawn at once; needs memory, and a study keeps to one value.
        prediction_type: `"epsilon"`, `"v_prediction"`; `None` or `"auto"` uses the file's markers.

    Raises:
        CheckpointError: the file cannot be read or does not fit the config.
        ConfigError: an invalid setting.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub on import, below
    if max_batch < 1:
        raise ConfigError(f"max_batch: {max_batch} pictures at once are not possible; use 1 or more")
    place = _device(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        _quieten()
        from diffusers import StableDiffusionPipeline

        from bayes_merger.checkpoints.tokenizer import load_tokenizer
        from bayes_merger.imaging.pipelines.layout import lay_side_by_side
        from bayes_merger.imaging.pipelines.loading import load_modules
        from bayes_merger.imaging.prompts.embedding import PromptEncoder

        tree = None if config is None else Path(config)
        tokenizer = load_tokenizer(tree)
        modules = load_modules(
            Path(model) if isinstance(model, str) else model,
            config=tree,
            device=place,
            dtype=_dtype(dtype, place),
            prediction_type=prediction_type,
        )
        pipe = StableDiffusionPipeline(
            vae=modules.vae,
            text_encoder=modules.text_encoder,
            tokenizer=tokenizer,
            unet=modules.unet,
            scheduler=build_scheduler("Euler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    lay_side_by_side(pipe)
    return LivePipeline(modules, pipe, PromptEncoder(tokenizer, modules.text_encoder), max_batch=max_batch)


def check_place(device: str, dtype: str) -> None:
    """Check at start-up that a pipeline could be loaded there.

    Raises:
        ConfigError: the device does not exist on this machine, or the dtype is unknown.
    """
    _dtype(dtype, _device(device))


def kind_of_device(name: str) -> str:
    """The kind of a device by its name in the settings: ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    return str(_device(name).type)


def _batches(orders: Sequence[_Order], most: int) -> list[list[_Order]]:
    """Orders of one kind together, as even in size as `most` allows.

    Sorted, since a picture's last bits depend on its place in the batch and should not on the order of the payloads.
    """
    kinds: dict[tuple[Any, ...], list[_Order]] = {}
    for order in sorted(orders, key=lambda order: (order.payload.name, order.index)):
        kinds.setdefault(order.kind, []).append(order)
    batches = []
    for same in kinds.values():
        count = math.ceil(len(same) / most)
        batches += [same[len(same) * at // count : len(same) * (at + 1) // count] for at in range(count)]
    return batches


def _check_finite(batch: Sequence[_Order], values: Tensor, what: str) -> None:
    finite = values.isfinite().flatten(1).all(dim=1).tolist()
    for order, good in zip(batch, finite, strict=True):
        if not good:
            raise TrialFailed(f"{order}: {what} not finite; in fp16, generator.dtype=fp32 may help")


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu, cuda, cuda:1 or mps") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device: no {name} on this machine ({count} CUDA devices); use device=auto or cpu")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        name = "fp32" if device.type == "cpu" else "fp16"
    if name not in DTYPES:
        raise ConfigError(f"dtype: {name!r} is not a dtype; use auto, {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def _quieten() -> None:
    """Silence diffusers: no progress bars, no warnings about settings that we set on purpose."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
