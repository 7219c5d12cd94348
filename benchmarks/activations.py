"""Measure what activations cost: while a model draws, in a merge that is written, and in a live one.

    python benchmarks/activations.py

One thread; what is compared takes turns, and the figures are ratios of medians of CPU seconds, so that other work on
the machine matters little. Drawing is that of the demo's model A; merged are four blocks of Stable Diffusion 1.5 at
their own size, all others a few numbers wide. The table is printed and written to
``benchmarks/results/activations.md``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from make_full_size import shapes
from safetensors.torch import save_file

from bayes_merger import demo
from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.activations.sums import Activations
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.imaging import Payload, load_pipeline, resolve
from bayes_merger.imaging.activations import Recording, recorded
from bayes_merger.imaging.layers import Layer
from bayes_merger.merging import SD1, LiveMerge, MergeRecipe, MergeSettings, ModelRef, open_checkpoint
from bayes_merger.merging.export.single_file import save_merge

RESULTS = Path(__file__).parent / "results" / "activations.md"
BLOCKS = ("input_blocks.7.", "input_blocks.8.", "output_blocks.6.", "output_blocks.8.")
ROUNDS = 3
_WIDTH = 8


def ratios(work: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, as a ratio to the first: medians of so many rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            begin = time.process_time()
            do()
            if number:
                times[name].append(time.process_time() - begin)
    first = statistics.median(next(iter(times.values())))
    return {name: statistics.median(own) / first for name, own in times.items()}


def drawing(rounds: int = ROUNDS) -> list[tuple[str, float, float]]:
    """Eight pictures of the demo's model A, drawn plainly and with all statistics in four bands."""
    pipeline = load_pipeline(demo.model_path("a"), config=demo.config_dir(), device="cpu", max_batch=16)
    settings: dict[str, Any] = {"steps": 14, "width": 64, "height": 64, "sampler_name": "DDIM", "cfg_scale": 4}
    payloads = resolve([Payload("ring", "a large red ring on a blue background", batch_size=8, **settings)], 0)
    about = About("0" * 64, "sd1", 4, ({"id": "x"},))

    def measured() -> None:
        with recorded(pipeline, about, guided=True):
            pipeline.draw(payloads)

    found = ratios({"plain": lambda: pipeline.draw(payloads), "measured": measured}, rounds)
    return [("drawing the demo's small pictures while it is measured / drawing", found["measured"], 1.4)]


def layer(rounds: int = ROUNDS) -> list[tuple[str, float, float]]:
    """One convolution of Stable Diffusion 1.5's first blocks at 512x512, one picture with guidance."""
    module, given = torch.nn.Conv2d(320, 320, 3, padding=1), torch.randn(2, 320, 64, 64)
    about = About("0" * 64, "sd1", 4, ({"id": "x"},))
    watched = Layer("x.weight", module, in_denoiser=True, begin=0, rows=320, swapped=False)
    recording = Recording(Activations(about), guided=True, time_unit=1000.0)

    def measured() -> None:
        other = given.clone()  # another tensor each time, as in a drawing
        recording.see_layer(watched, other, module(other))

    with torch.no_grad():
        found = ratios({"plain": lambda: module(given.clone()), "measured": measured}, rounds)
    return [("a convolution of full size while it is measured / without", found["measured"], 1.4)]


def make_models(folder: Path) -> dict[str, Checkpoint]:
    """Two models of random weights, and the activations of each."""
    front = "model.diffusion_model."
    chosen = {
        key: shape if key.removeprefix(front).startswith(BLOCKS) else tuple(min(size, _WIDTH) for size in shape)
        for key, shape in shapes("sd1").items()
    }
    models = {}
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {key: torch.randn(shape, generator=generator).half() for key, shape in chosen.items()}
        save_file(tensors, folder / f"{name}.safetensors")
        models[name] = open_checkpoint(folder / f"{name}.safetensors")
        found = Activations(About(models[name].sha256(), "sd1", 1, ({"id": "x"},)))
        for key, shape in chosen.items():
            if len(shape) > 1:
                found.sums[key] = {
                    "guided_in": torch.rand(1, shape[1], generator=generator).double(),
                    "guided_out": torch.rand(1, shape[0], generator=generator).double(),
                }
                found.counts[key] = {"guided_n": torch.ones(1).double()}
        found.save(folder / f"{name}.act.safetensors")
    return models


def merging(folder: Path, rounds: int = ROUNDS) -> list[tuple[str, float, float]]:
    """The same merge with one number for every block, and with saliency, written and live."""
    models = make_models(folder)
    saliency = {name: {"path": str(folder / f"{name}.act.safetensors"), "sha256": ""} for name in "ab"}
    settings = {"scalar": MergeSettings(), "tensor": MergeSettings(saliency=saliency)}
    settings |= {name: replace(own, dtype="fp32") for name, own in (("wide scalar", settings["scalar"]),)}

    def weights(kind: str, alpha: float) -> dict[str, dict[str, float]]:
        own = {"alpha": dict.fromkeys(SD1.blocks, alpha)}
        return own | ({"strength": dict.fromkeys(SD1.blocks, 1.5)} if kind == "tensor" else {})

    def written(kind: str) -> Callable[[], None]:
        references = {name: ModelRef(str(model.path), model.sha256()) for name, model in models.items()}
        recipe = MergeRecipe(**vars(settings[kind]), models=references, weights=weights(kind, 0.4), architecture="sd1")
        return lambda: save_merge(recipe, models, folder / "out.safetensors", replace=True)

    def live(kind: str, dtype: torch.dtype) -> Callable[[], None]:
        merged = [key for key in models["a"].shapes if SD1.place(key).role in ("block", "vae")]
        destinations = {key: torch.empty(models["a"].shapes[key], dtype=dtype) for key in merged}
        candidate = LiveMerge(models, settings[kind], memory=2**32)
        alphas = iter([0.1 + 0.01 * number for number in range(80)])
        return lambda: candidate.apply(weights(kind, next(alphas)), destinations)

    half, wide = torch.float16, torch.float32
    file = ratios({kind: written(kind) for kind in ("scalar", "tensor")}, rounds)
    fused = ratios({kind: live(kind, half) for kind in ("scalar", "tensor")}, rounds)
    pieces = ratios({"scalar": live("wide scalar", wide), "tensor": live("tensor", wide)}, rounds)
    return [
        ("a written merge with saliency / without", file["tensor"], 1.5),
        ("a live candidate in fp32 with saliency / without", pieces["tensor"], 1.5),
        ("a live candidate in fp16 with saliency / without, which is one fused call", fused["tensor"], 1.5),
    ]


def main() -> None:
    """Measure all of it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*layer(), *drawing(), *merging(Path(folder))]
    lines = ["| what | ratio | goal |", "| --- | --- | --- |"]
    lines += [f"| {what} | {found:.2f} | {goal:g}{'' if found <= goal else ', missed'} |" for what, found, goal in rows]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
