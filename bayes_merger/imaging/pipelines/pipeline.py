"""A live pipeline: load once, then write weights and draw for each candidate.

Pictures are those of plain diffusers, to the last bit: the drawing is its pipeline of the model's architecture, given
explicit schedulers, embeddings, and one CPU noise generator per picture (so results do not depend on the GPU's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, TrialFailed, is_out_of_memory
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.hires import UPSCALERS
from bayes_merger.imaging.pipelines.architectures import Conditioning, DrawnArchitecture, Told
from bayes_merger.imaging.pipelines.batches import Order, Progress, batches_of, check_finite
from bayes_merger.imaging.pipelines.denoised import Tap
from bayes_merger.imaging.pipelines.device import free_memory
from bayes_merger.imaging.pipelines.passes import (
    Pass,
    Wording,
    cropped,
    enlarged_latents,
    enlarged_pictures,
    kin_of,
    noise_of,
    passes,
)
from bayes_merger.imaging.pipelines.speed import attending
from bayes_merger.imaging.pipelines.vae import decoded_latents, encoded_pictures, pictures_of
from bayes_merger.imaging.prompts.inversions import for_encoders, read_embedding
from bayes_merger.timing import timed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from bayes_merger.imaging.pipelines.sketches import Onlooker


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
        parameters: the text that another program wrote about it; empty: it was drawn here.
    """

    payload: str
    index: int
    seed: int
    prompt: str
    image: Image
    parameters: str = ""


OnDrawn = Callable[[Sequence[DrawnImage]], None]
"""Given pictures, some at a time, before the next ones are drawn."""


class LivePipeline:
    """A loaded pipeline whose parameters may be overwritten in place between drawings.

    Attributes:
        pipe: the diffusers pipeline; do not offload, fuse or cast its modules.
        architecture: what its architecture needs.
        device: where it lives.
        dtype: what it computes in.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        zero_snr: whether the model was trained to zero terminal signal-to-noise ratio.
        max_batch: most pictures drawn at once; it falls when the memory does not hold them.
        make_room: called when it does not hold a single one; whether others have left some of it.
    """

    def __init__(
        self,
        architecture: DrawnArchitecture,
        pipe: Any,
        *,
        max_batch: int,
        attention: str = "auto",
        leaving: Collection[str] = (),
    ) -> None:
        """Use `imaging.load_pipeline`; text encoders that are ``leaving`` wait in the CPU's memory for prompts."""
        network = architecture.model.modules[architecture.network]
        self.pipe = pipe
        self.architecture = architecture
        self.device: torch.device = network.device
        self.dtype: torch.dtype = network.dtype
        self.prediction_type = architecture.model.prediction_type
        self.zero_snr = architecture.model.zero_snr
        self.max_batch = max_batch
        self.make_room: Callable[[], bool] = lambda: False
        self._attention = attention
        self._leaving = leaving if self.device.type == "cuda" else ()
        self._conditionings: dict[tuple[Any, ...], Conditioning] = {}
        self._remembers = True

    def destinations(self) -> dict[str, Tensor]:
        """Single-file key -> where a merge writes its tensor, in the shape that it has in the loaded file.

        Call it anew for every merge (cheap). What is written counts from the next drawing on. After writing to
        a text encoder, call `text_encoder_changed`.

        Raises:
            ConfigError: the pipeline was offloaded, cast or fused, so that what is written would be lost.
        """
        return self.architecture.model.destinations()

    def text_encoder_changed(self) -> None:
        """Forget the prompts' embeddings, which are kept as long as the text encoders stay the same."""
        self._conditionings.clear()

    @contextmanager
    def reading_anew(self) -> Iterator[None]:
        """Meanwhile every batch's prompts are read, known or not, for whoever watches the text encoders."""
        self._remembers = False
        try:
            yield
        finally:
            self._remembers = True

    def learn(self, embeddings: Mapping[str, Path]) -> None:
        """Read some words as textual-inversion embeddings from now on.

        Args:
            embeddings: word to file.

        Raises:
            CheckpointError: a file that cannot be read, or is for another kind of model.
        """
        clips = self.architecture.clips
        widths = {place: clip.width for place, clip in enumerate(clips)}
        for name, path in embeddings.items():
            for place, vectors in for_encoders(path, read_embedding(path), widths).items():
                clips[place].learn(name, vectors)

    def check(self, payloads: Sequence[Payload]) -> None:
        """Check at start-up what would otherwise fail in the first trial.

        Raises:
            ConfigError: a sampler that does not suit this model or number of steps, or a `clip_skip` too large.
        """
        for payload in payloads:
            whole = [payload, payload.enlarged()] if payload.hires else [payload]
            try:
                self._check_words(payload)
                self.architecture.check_passes(payload, zero_snr=self.zero_snr)
                for one in whole:
                    self.architecture.check(one, self.architecture.model.merged)
                schedulers = [self.architecture.scheduler(one) for one in whole]
            except ConfigError as error:
                raise ConfigError(f"payload {payload.name}: {error}") from error
            for one, scheduler in zip(whole, schedulers, strict=True):
                shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
                try:
                    scheduler.set_timesteps(one.steps, **shift)
                except ValueError as error:
                    raise ConfigError(f"payload {payload.name}: {one.steps} steps: {error}") from error

    def _check_words(self, payload: Payload) -> None:
        """Refuse words that are too long."""
        for index in range(len(payload.prompts)):
            for one in passes(payload, index):
                self.architecture.length((*one.words.wanted.texts, *one.words.unwanted.texts))

    def draw(
        self,
        payloads: Sequence[Payload],
        on_drawn: OnDrawn | None = None,
        *,
        on_step: Callable[[int, int], None] | None = None,
        onlooker: Onlooker | None = None,
    ) -> list[DrawnImage]:
        """The pictures of some payloads, in their order.

        Pictures of the same size, steps, sampler, cfg, clip skip and prompt length share batches. The same payloads
        give the same batches, and so the same pictures bit for bit, in whatever order they are given.

        Args:
            payloads: resolved, see `payload.resolve`.
            on_drawn: given each batch's pictures before the next batch is drawn.
            on_step: called as `on_step(done, total)`, counting sampler steps of batches.
            onlooker: shown between two steps, just before `on_step`, what the network believes the pictures to be.

        Raises:
            TrialFailed: a picture holds NaN or is of one flat colour (what a broken merge draws).
            ConfigError: a payload that is not resolved, or a sampler that does not suit the model.
        """
        self.architecture.model.memory.settle()
        orders = [self._order(payload, index) for payload in payloads for index in range(payload.batch_size)]
        batches = batches_of(orders, self.max_batch)
        if len(self._conditionings) > _CACHED:
            self._conditionings.clear()
        told = [self._told(batch) for batch in batches]
        self._send_encoders("cpu")
        total = sum(batch[0].payload.all_steps for batch in batches)
        drawn: dict[int, DrawnImage] = {}
        done = 0
        for batch, conditionings in zip(batches, told, strict=True):
            steps = batch[0].payload.all_steps
            progress = Progress(on_step or _unheard, done, batch[0].payload.steps, total, onlooker)
            for order, image in zip(batch, self._draw_in_memory(batch, conditionings, progress), strict=True):
                drawn[id(order)] = DrawnImage(order.payload.name, order.index, order.seed, order.prompt, image)
            if on_drawn is not None:
                on_drawn([drawn[id(order)] for order in batch])
            done += steps
        return [drawn[id(order)] for order in orders]

    def _order(self, payload: Payload, index: int) -> Order:
        if not len(payload.prompts) == len(payload.negative_prompts) == len(payload.seeds) == payload.batch_size:
            raise ConfigError(f"payload {payload.name}: not resolved; pass it through imaging.resolve first")
        found = passes(payload, index)
        chunks = tuple(self.architecture.chunks(one.words.wanted.texts, one.words.unwanted.texts) for one in found)
        return Order(payload, index, found, chunks)

    @timed("embed")
    def _conditioning(
        self, batch: Sequence[Pass], chunks: tuple[int, int], calls: int, *, negative: bool
    ) -> list[Conditioning]:
        """What some pictures are told, call by call; the same object where it is the same."""
        said = tuple(one.words.unwanted if negative else one.words.wanted for one in batch)
        read = self._read(said, batch[0].payload, chunks, negative=negative)
        begins = list(accumulate((len(one.texts) for one in said), initial=0))
        rows = [tuple(begin + one.at(call) for begin, one in zip(begins, said, strict=False)) for call in range(calls)]
        told = {places: read.rows(list(places)) for places in dict.fromkeys(rows)}
        return [told[places] for places in rows]

    def _read(
        self, said: tuple[Wording, ...], payload: Payload, chunks: tuple[int, int], *, negative: bool
    ) -> Conditioning:
        """All that some prompts say, one text below the other."""
        key = (said, payload.clip_skip, payload.emphasis, chunks, negative)
        if key not in self._conditionings or not self._remembers:
            self._send_encoders(self.device)
            own = chunks[negative]
            read = self.architecture.encode(
                [text for one in said for text in one.texts],
                clip_skip=payload.clip_skip,
                length=own,
                negative=negative,
                emphasis=payload.emphasis,
                kin=kin_of(said),
            )
            self._conditionings[key] = read.repeated(math.lcm(*chunks) // own)
        return self._conditionings[key]

    def _told(self, batch: Sequence[Order]) -> list[Told]:
        """What the denoiser is told in each pass over some pictures; after this, the text encoders may leave."""
        found, guided = [], self.guided_passes(batch[0].payload)
        for number, chunks in enumerate(batch[0].chunks):
            same = [order.passes[number] for order in batch]
            calls = max(one.words.calls for one in same)
            wanted = self._conditioning(same, chunks, calls, negative=False)
            found.append(Told(wanted, self._conditioning(same, chunks, calls, negative=True) if guided[number] else []))
        return found

    def guided_passes(self, payload: Payload) -> list[bool]:
        """Of each pass over a payload's pictures, whether what is not to be seen is drawn too."""
        scales = [payload.cfg_scale, *([payload.hires.cfg_scale] if payload.hires else [])]
        return [self.architecture.guided and scale > 1 for scale in scales]

    def _send_encoders(self, device: torch.device | str) -> None:
        """Move the text encoders that leave, as far as they are elsewhere."""
        import torch

        for part in self._leaving:
            if self.architecture.model.modules[part].device.type != torch.device(device).type:
                self.architecture.model.move(part, device)

    def _draw_in_memory(self, batch: Sequence[Order], told: Sequence[Told], progress: Progress) -> list[Image]:
        """Draw a batch; in halves if the memory does not hold it, and those after it in no larger ones."""
        if len(batch) <= self.max_batch:
            try:
                return self._draw_batch(batch, told, progress)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or (len(batch) == 1 and not self.make_room()):
                    raise
            free_memory(self.device)
            if len(batch) == 1:
                return self._draw_in_memory(batch, told, progress)
            self.max_batch = len(batch) // 2
        half = (len(batch) + 1) // 2
        images = []
        for part in (slice(None, half), slice(half, None)):
            images += self._draw_in_memory(batch[part], [one.rows(part) for one in told], progress)
        return images

    def _drawn_latents(
        self, pipe: Any, batch: Sequence[Pass], told: Told, progress: Progress, **arguments: Any
    ) -> Tensor:
        """The latents of one pass over some pictures."""

        def believed(tap: Tap) -> Tensor:
            return self.architecture.unpacked(tap.denoised(), batch[0].payload)

        def after_step(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
            if tap is not None:
                progress.show(partial(believed, tap))
            progress.step(step + 1, pipe.num_timesteps)
            sides = told.changed(step + 1)
            return self.architecture.on_the_way(sides, given) if sides else {}

        given = told.arguments()
        pipe.scheduler = self.architecture.scheduler(batch[0].payload)
        tap = Tap(pipe.scheduler) if progress.onlooker is not None else None
        with noise_of(batch) as generators, attending(self._attention):
            latents: Tensor = pipe(
                **given,
                **arguments,
                generator=generators,
                output_type="latent",
                callback_on_step_end=after_step,
            ).images
        return latents

    def _first_pass(self, batch: Sequence[Order], told: Told, progress: Progress) -> Tensor:
        payload = batch[0].payload
        return self._drawn_latents(
            self.pipe,
            [order.passes[0] for order in batch],
            told,
            progress,
            **self.architecture.options(payload),
            width=payload.width,
            height=payload.height,
            num_inference_steps=payload.steps,
        )

    def _second_pass(self, batch: Sequence[Order], told: Told, latents: Tensor, progress: Progress) -> Tensor:
        """Latents of the second pass, of those of the first."""
        import diffusers

        hires = batch[0].payload.hires
        assert hires is not None
        if UPSCALERS[hires.upscaler] is None:
            pictures = enlarged_pictures(decoded_latents(self.pipe, latents), hires)
            encoded = encoded_pictures(self.pipe, pictures, [order.seed for order in batch])
            latents = cropped(encoded.to(self.dtype), hires, self.pipe.vae_scale_factor)
        else:
            latents = enlarged_latents(latents, hires, self.pipe.vae_scale_factor)
        kind = getattr(diffusers, self.architecture.second_pipeline)
        pipe = kind(**{**self.pipe.components, **self.architecture.components})
        pipe.set_progress_bar_config(disable=True)
        return self._drawn_latents(
            pipe,
            [order.passes[1] for order in batch],
            told,
            progress.after(batch[0].payload.steps, hires.steps),
            image=latents,
            guidance_scale=hires.cfg_scale,
            num_inference_steps=hires.schedule_steps,
            **self.architecture.second_options(hires),
        )

    def _draw_batch(self, batch: Sequence[Order], told: Sequence[Told], progress: Progress) -> list[Image]:
        payload = batch[0].payload
        latents = self._first_pass(batch, told[0], progress)
        if payload.hires is not None:
            check_finite(batch, latents, "the latents of the first pass are")
            latents = self.architecture.unpacked(latents, payload)
            latents = self._second_pass(batch, told[1], latents, progress)
            payload = payload.enlarged()
        check_finite(batch, latents, "the latents are")
        latents = self.architecture.unpacked(latents, payload)
        decoded = decoded_latents(self.pipe, latents)
        check_finite(batch, decoded, "the VAE's output is")
        images = pictures_of(self.pipe, decoded)
        for order, image in zip(batch, images, strict=True):
            if all(len(set(band.getextrema())) == 1 for band in image.split()):
                raise TrialFailed(f"{order}: one flat colour {image.getpixel((0, 0))}")
        if progress.onlooker is not None:
            progress.onlooker.on_decoded(latents, images)
        return images


def _unheard(done: int, total: int) -> None:
    """Nobody counts the steps."""
