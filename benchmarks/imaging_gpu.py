"""The rows of ``imaging.py`` for a GPU, on full-size models of random weights; at most eight minutes in all.

    python benchmarks/make_full_size.py sd1 --models ab
    python benchmarks/make_full_size.py sdxl --architecture sdxl --models ab
    python benchmarks/imaging.py --gpu sd1
    python benchmarks/imaging.py --gpu sdxl

Random weights draw noise, in the time that a trained model takes. What is not begun four minutes after the start of a
folder is left out, and said to be.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

LIMIT = 240.0
BATCHES = (1, 2, 4, 8, 16)


def payloads(model: Any, pictures: int, *, quick: bool) -> tuple[Any, ...]:
    """One payload of so many pictures, of the model's own size."""
    from bayes_merger.imaging import Payload, resolve
    from bayes_merger.imaging.pipelines.architectures import drawn

    usual = {"steps": 20, **drawn(model).defaults(model)} | ({"steps": 2, "width": 64, "height": 64} if quick else {})
    return resolve([Payload("p", "a ring", negative_prompt="blurry", seed=1, batch_size=pictures, **usual)], 0)


def seconds(action: Callable[[], Any], device: str, repeats: int = 2) -> float:
    """The least of some times, after a first one that warms up."""
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def channels_last(pipeline: Any) -> Any:
    """Make a network's convolutions take and give the channels last, without a change to its parameters."""
    network = pipeline.pipe.unet

    def before(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].to(memory_format=torch.channels_last), *inputs[1:])

    return network.register_forward_pre_hook(before)


def of_batches(load: Callable[..., Any], model: Any, device: str, quick: bool) -> Iterator[str]:
    """Seconds per picture, by how many are drawn at once; then with channels last."""
    pipeline = load(max_batch=max(BATCHES))
    for most in BATCHES:
        given = payloads(model, most, quick=quick)
        each = seconds(lambda given=given: pipeline.draw(given), device) / most  # type: ignore[misc]
        fits = "" if pipeline.max_batch >= most else f" (only {pipeline.max_batch} fit)"
        yield f"{most} at once | {each:.3f} s a picture{fits}"
    handle = channels_last(pipeline)
    given = payloads(model, 4, quick=quick)
    yield f"4 at once, channels last | {seconds(lambda: pipeline.draw(given), device) / 4:.3f} s a picture"
    handle.remove()


def of_compiling(load: Callable[..., Any], model: Any, device: str, quick: bool) -> Iterator[str]:
    """How long compiling takes, and what it brings."""
    pipeline, given = load(compiled=True), payloads(model, 4, quick=quick)
    began = time.perf_counter()
    pipeline.draw(given)
    first = time.perf_counter() - began
    each = seconds(lambda: pipeline.draw(given), device) / 4
    yield f"4 at once, compiled | {each:.3f} s a picture; the first draw {first:.0f} s"


def of_trial(load: Callable[..., Any], folder: Path, model: Any, device: str, quick: bool) -> Iterator[str]:
    """What a trial takes beside its pictures: the merge, the prompts, and writing pictures, beside drawing or after."""
    from bayes_merger.checkpoints.opening import open_checkpoint
    from bayes_merger.merging import LiveMerge, MergeSettings

    pipeline, given = load(), payloads(model, 4, quick=quick)
    with open_checkpoint(folder / "b.safetensors") as other, tempfile.TemporaryDirectory() as place:
        live = LiveMerge({"a": model, "b": other}, MergeSettings("weighted_sum"))
        alphas = iter(0.1 + 0.01 * number for number in range(100))

        def merge() -> None:
            alpha = next(alphas)
            live.apply({"alpha": dict.fromkeys(model.architecture.blocks, alpha)}, pipeline.destinations())

        merging = seconds(merge, device)
        pipeline.text_encoder_changed()
        images = pipeline.draw(given)

        def embed() -> None:
            pipeline.text_encoder_changed()
            pipeline.draw([replace(given[0], steps=1)])

        shortest = seconds(lambda: pipeline.draw([replace(given[0], steps=1)]), device)
        embedding = max(0.0, seconds(embed, device) - shortest)

        def write() -> None:
            for image in images:
                image.image.save(Path(place) / f"{image.index}.png")

        writing = seconds(write, "cpu") / len(images)
    yield f"a merge of everything | {1000 * merging:.0f} ms (with the prompts at most 50 for SD1.5, 100 for SDXL)"
    yield f"the prompts, where a text encoder changed | {1000 * embedding:.0f} ms"
    yield f"writing a picture, which goes on beside the drawing of the next | {1000 * writing:.0f} ms"


def measure_folder(folder: Path, device: str, *, quick: bool) -> None:
    """Measure the models in a folder and print the rows.

    Args:
        folder: with `a.safetensors` and `b.safetensors`.
        device: `cuda`, or where there is none, `cpu`.
        quick: few steps of small pictures, to see that it works.
    """
    from bayes_merger.checkpoints.opening import open_checkpoint
    from bayes_merger.imaging import load_pipeline

    began = time.perf_counter()
    config = folder if (folder / "model_index.json").is_file() else None
    with open_checkpoint(folder / "a.safetensors") as model:

        def load(**settings: Any) -> Any:
            return load_pipeline(model, config=config, device=device, **settings)

        print(f"{model.architecture.title} on {torch.cuda.get_device_name() if device == 'cuda' else device}")
        parts: tuple[Callable[[], Iterator[str]], ...] = (
            lambda: of_trial(load, folder, model, device, quick),
            lambda: of_batches(load, model, device, quick),
            lambda: of_compiling(load, model, device, quick),
        )
        for part in parts:
            if time.perf_counter() - began > LIMIT:
                print("the rest was not begun: the time is over")
                return
            for line in part():
                print(f"| {line} | after {time.perf_counter() - began:.0f} s", flush=True)
