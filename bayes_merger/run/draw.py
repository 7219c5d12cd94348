"""Payloads drawn with one model, without a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, counted
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.infotext import infotext
from bayes_merger.imaging.pipelines.building import load_pipeline
from bayes_merger.imaging.pipelines.device import OFFLOAD
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, LivePipeline
from bayes_merger.paths import user_path
from bayes_merger.run.payloads import check_payloads, path_of, resolve_payloads
from bayes_merger.run.prompt_files import PromptFiles, PromptLoras, find_files
from bayes_merger.run.web_ui import WEB_UIS


@dataclass(frozen=True)
class Drawer:
    """One model, ready to draw payloads.

    Attributes:
        model: its opened file.
        payloads: resolved and checked.
        pipeline: with the model's weights.
        files: what the payloads' prompts name.
        draw: the pictures of some of the payloads, with the LoRAs of their prompts, in their order.
    """

    model: Checkpoint
    payloads: tuple[Payload, ...]
    pipeline: LivePipeline
    files: PromptFiles
    draw: Callable[[Sequence[Payload]], tuple[DrawnImage, ...]]


@contextmanager
def drawer_of(config: RunConfig, on_step: Callable[[int, int], None] | None = None) -> Iterator[Drawer]:
    """What draws a run's payloads with its model A.

    Args:
        config: the settings of a run, of which the model, the payloads, the generator and the folders count.
        on_step: called as `on_step(done, total)`, counting sampler steps of batches.

    Raises:
        ConfigError: a payload or a setting that makes no sense.
        CheckpointError: a file that cannot be used.
    """
    check_here(config)
    with open_checkpoint(user_path(config.model_a)) as model:
        payloads = resolve_payloads(config, model)
        check_payloads(payloads, model, config.generator.prediction_type)
        files = find_files(payloads, model, path_of(config.loras), path_of(config.embeddings))
        with loaded(config, model, payloads, files, on_step) as drawer:
            yield drawer


def check_here(config: RunConfig) -> None:
    """Whether pictures are drawn here.

    Raises:
        ConfigError: a web UI draws them.
    """
    if (program := config.generator.program) in WEB_UIS:
        raise ConfigError(f"generator.program: a web UI draws payloads by itself; leave out  generator={program}  here")


@contextmanager
def loaded(
    config: RunConfig,
    model: Checkpoint,
    payloads: Sequence[Payload],
    files: PromptFiles,
    on_step: Callable[[int, int], None] | None = None,
    vae: Checkpoint | None = None,
    offload: str | None = OFFLOAD,
) -> Iterator[Drawer]:
    """What draws payloads with an opened model.

    Args:
        config: the settings of a run, of which the generator counts.
        model: what is loaded.
        payloads: resolved and checked.
        files: what their prompts name; they are closed at the end.
        on_step: as for `drawer_of`.
        vae: of another file, that the model is loaded with.
        offload: what leaves the GPU between drawings, unless the settings say it.

    Raises:
        ConfigError: a payload or a setting that makes no sense.
        CheckpointError: a file that cannot be used.
    """
    generator = config.generator
    pipeline = load_pipeline(
        model,
        config=generator.config or (model.path if model.path.is_dir() else None),
        vae=vae,
        text_encoder_3=generator.text_encoder_3,
        offload=generator.offload or offload,
        device=generator.device,
        dtype=generator.dtype,
        attention=generator.attention,
        compiled=generator.compile,
        max_batch=generator.max_batch,
        prediction_type=generator.prediction_type,
    )
    pipeline.learn(files.embeddings)
    pipeline.check(payloads)
    loras = PromptLoras(files.loras, model, pipeline.destinations, pipeline.text_encoder_changed)

    def draw(some: Sequence[Payload]) -> tuple[DrawnImage, ...]:
        return loras.draw(some, partial(pipeline.draw, on_step=on_step))

    try:
        yield Drawer(model, tuple(payloads), pipeline, files, draw)
    finally:
        for lora in files.loras.values():
            lora.close()


def draw_with(
    config: RunConfig, folder: Path, note: Callable[[str], None], on_step: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Draw a run's payloads with its model A and save the pictures beside those that are there.

    Args:
        config: as for `drawer_of`.
        folder: where the pictures go; it is made.
        note: told what is worth knowing, a line at a time.
        on_step: as for `drawer_of`.

    Returns:
        The pictures, in the order of the payloads.

    Raises:
        ConfigError: a payload or a setting that makes no sense.
        CheckpointError: a file that cannot be used.
        TrialFailed: the model draws NaN or a flat colour.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out: {folder} is no folder; give another name")
    with drawer_of(config, on_step) as drawer:
        start = time.perf_counter()
        images = drawer.draw(drawer.payloads)
        seconds = time.perf_counter() - start
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {payload.name: payload for payload in drawer.payloads}
    paths = [_saved(folder, image, by_name[image.payload]) for image in images]
    device = drawer.pipeline.device
    note(f"{counted(len(images), 'picture')} in {seconds:.1f} s, {seconds / len(images):.2f} s each, on {device}")
    return paths


def _saved(folder: Path, image: DrawnImage, payload: Payload) -> Path:
    """The picture's file, which is one that was not there."""
    info = PngInfo()
    info.add_text("parameters", infotext(payload, image.index))
    number = 0
    while True:
        path = folder / f"{image.payload}-{image.index}{f'-{number}' if number else ''}.png"
        try:
            with path.open("xb") as file:
                image.image.save(file, format="PNG", pnginfo=info)
        except FileExistsError:
            number += 1
        else:
            return path
