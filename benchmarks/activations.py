"""Measure what activations cost: while a model draws, in a merge that is written, in a live one and in a candidate.

    python benchmarks/activations.py

One thread; what is compared takes turns, and the figures are ratios of the fewest CPU seconds, so that other work on
the machine matters little; it matters some, since caches are shared, so that the machine's load is written down.
Drawing is that of the demo's model A, and of a model of Stable Diffusion 1.5's size (2.1 GB on the disk, 6.5 GB of
memory); merged are five blocks of Stable Diffusion 1.5 at their own size, all others a few numbers wide, so that what
every tensor costs weighs more than in a whole model; at last the whole model is written (6.4 GB on the disk meanwhile).
Beside them stands how many weights have another winner when fewer steps were looked at: the one of the demo's A and B
whose `response_in^2 response_out^2` is larger; and whether memory grows with the pictures. The table is printed and
written to ``benchmarks/results/activations.md``, after every part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from make_full_size import shapes, write_model
from safetensors.torch import save_file

from bayes_merger import compose, demo
from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.activations.sums import Activations
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.config import RunConfig
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.activations import Recording, recorded
from bayes_merger.imaging.layers import Layer
from bayes_merger.merging import SD1, LiveMerge, MergeRecipe, MergeSettings, ModelRef, open_checkpoint
from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.export.single_file import save_merge
from bayes_merger.merging.parameters import Weight
from bayes_merger.run.activations import measure
from bayes_merger.run.payloads import named_payloads

RESULTS = Path(__file__).parent / "results" / "activations.md"
BLOCKS = ("input_blocks.7.", "input_blocks.8.", "output_blocks.5.", "output_blocks.6.", "output_blocks.8.")
REPORT = """# What activations cost

Written by `python benchmarks/activations.py`: CPU seconds of one thread, with and without, as ratios of the fastest
of {rounds} turns, {whole} of the whole model. The machine has {cores} cores; {before:.0f} programs wanted them when
this began and {after:.0f} when it ended. A candidate is the time of drawing eight pictures and that of its merge.
"""
ROUNDS = 5
ROUNDS_OF_WHOLE = 2
DRAWN: dict[str, Any] = {"steps": 14, "width": 64, "height": 64, "sampler_name": "DDIM", "cfg_scale": 4}
_WIDTH = 8
_SALIENT = ("salient_sum", "most_salient")

Row = tuple[str, float, float]
"""What is measured, the ratio, and the goal."""


def ratios(work: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, as a ratio to the first: the fewest of so many rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            begin = time.process_time()
            do()
            if number:
                times[name].append(time.process_time() - begin)
    first = min(next(iter(times.values())))
    return {name: min(own) / first for name, own in times.items()}


def eight_pictures() -> list[Payload]:
    """What is drawn."""
    return list(resolve([Payload("ring", "a large red ring on a blue background", batch_size=8, **DRAWN)], 0))


def drawing(rounds: int = ROUNDS) -> list[Row]:
    """Eight pictures of the demo's model A, drawn plainly and with all statistics in four bands."""
    pipeline = load_pipeline(demo.model_path("a"), config=demo.config_dir(), device="cpu", max_batch=16)
    payloads = eight_pictures()
    cost = cost_of_drawing(pipeline, payloads, rounds)
    return [("drawing the demo's small pictures while it is measured / drawing", cost, 1.4)]


def cost_of_drawing(pipeline: LivePipeline, payloads: list[Payload], rounds: int) -> float:
    """The CPU seconds of drawing with all statistics in four bands, as a ratio to those of drawing plainly."""
    about = About("0" * 64, "sd1", 4, ({"id": "x"},))

    def measured() -> None:
        with recorded(pipeline, about, guided=True):
            pipeline.draw(payloads)

    return ratios({"plain": lambda: pipeline.draw(payloads), "measured": measured}, rounds)["measured"]


def winners(folder: Path) -> list[Row]:
    """Of the demo's A against B: weights whose winner is another one when every second step was looked at."""

    def ratios_of(name: str, bands: int) -> dict[str, torch.Tensor]:
        """Key -> the sign of log(B / A) of every weight that both answer with."""
        files = []
        for model, path in (("a", demo.model_path("a")), ("b", demo.model_path("b"))):
            files.append(folder / f"{model}{name}.act.safetensors")
            measure(demo_run(path, 8), files[-1], print, bands=bands)
        a, b = (Sidecar(file) for file in files)
        found = {}
        for key in [key for key in a.statistics if "guided_out" in a.statistics[key]]:
            rows, columns = (
                torch.log(b.mean(key, statistic) / a.mean(key, statistic)) for statistic in ("guided_out", "guided_in")
            )
            found[key] = torch.sign(rows[:, None] + columns)
        a.close()
        b.close()
        return found

    few, every = ratios_of("few", 4), ratios_of("every", 100)  # each step in a band of its own: all are looked at
    return [("weights with another winner where every step is looked at", _others(few, every), 0.01)]


def demo_run(model: Path, pictures: int) -> RunConfig:
    """The demo's settings for so many pictures of a model."""
    settings = ["experiment=demo", "seed=7919", f"model_a={model}"]
    names = [payload.name for payload in named_payloads(compose.validate(compose.compose_run(settings)))]
    settings += [f"payloads.{payload}.batch_size={pictures // len(names)}" for payload in names]
    return compose.validate(compose.compose_run(settings))


def _others(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The share of weights that differ, of those that are known."""
    signs = [(one[key], other[key]) for key in one]
    known = [torch.isfinite(a) & torch.isfinite(b) for a, b in signs]
    differ = sum(int(((a != b) & both).sum()) for (a, b), both in zip(signs, known, strict=True))
    return differ / sum(int(both.sum()) for both in known)


def many_pictures(folder: Path) -> list[Row]:
    """Memory of this process while it measures 1,000 pictures of the demo's model A, after each prompt's 125."""
    held: list[float] = []

    def note(text: str) -> None:
        print(text, flush=True)
        held.append(_memory(os.getpid(), "VmRSS"))

    measure(demo_run(demo.model_path("a"), 1000), folder / "many.act.safetensors", note)
    after = max(held[1:])
    return [("memory after 250 to 1,000 pictures while they are measured / after 125", after / held[0], 1.02)]


def full_size(folder: Path, rounds: int = ROUNDS_OF_WHOLE) -> list[Row]:
    """A picture of 256 pixels by Stable Diffusion 1.5 at its own size, in fp32, plainly and with all statistics."""
    write_model(folder / "a.safetensors", "a")
    pipeline = load_pipeline(folder / "a.safetensors", device="cpu", max_batch=1)
    drawn: dict[str, Any] = {"steps": 2, "width": 256, "height": 256, "sampler_name": "Euler", "cfg_scale": 7.0}
    payloads = list(resolve([Payload("ring", "a large red ring on a blue background", **drawn)], 0))
    cost = cost_of_drawing(pipeline, payloads, rounds)
    return [("drawing with Stable Diffusion 1.5 at its own size while it is measured / drawing", cost, 1.4)]


def layer(rounds: int = ROUNDS) -> list[Row]:
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


def candidates(folder: Path, rounds: int = ROUNDS) -> list[Row]:
    """A candidate of a search on the demo's models: merged into the live model and drawn, the files as they were."""
    models = {"a": open_checkpoint(demo.model_path("a")), "b": open_checkpoint(demo.model_path("b"))}
    for name, model in models.items():
        random_activations(folder / f"{name}.act.safetensors", model, dict(model.shapes))
    pipeline = load_pipeline(demo.model_path("a"), config=demo.config_dir(), device="cpu", max_batch=16)
    payloads, merging = eight_pictures(), Merging(folder, models)

    destinations = pipeline.destinations()
    work: dict[str, Callable[[], Any]] = {"drawing": lambda: pipeline.draw(payloads)}
    work |= {kind: merging.live(kind, settings, destinations) for kind, settings in merging.settings.items()}
    found = ratios(work, rounds)
    salient, plain = (found["drawing"] + found[kind] for kind in ("tensor", "scalar"))
    return [("a candidate of the demo, merged and drawn, with saliency / without", salient / plain, 1.1)]


def random_activations(path: Path, model: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Responses of any size, for all matrices and convolutions, in four bands."""
    generator = torch.Generator().manual_seed(0)
    found = Activations(About(model.sha256(), "sd1", 4, ({"id": "x"},)))
    for key, shape in shapes.items():
        if len(shape) > 1:
            found.sums[key] = {
                "guided_in": torch.rand(4, shape[1], generator=generator).double(),
                "guided_out": torch.rand(4, shape[0], generator=generator).double(),
            }
            found.counts[key] = {"guided_n": torch.ones(4).double()}
    found.save(path)


def make_models(folder: Path, blocks: tuple[str, ...]) -> dict[str, Checkpoint]:
    """Two models of random weights, of which these blocks have their own size, and the activations of each."""
    front = "model.diffusion_model."
    chosen = {
        key: shape if key.removeprefix(front).startswith(blocks) else tuple(min(size, _WIDTH) for size in shape)
        for key, shape in shapes("sd1").items()
    }
    models = {}
    for seed, name in enumerate("abc"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {key: torch.randn(shape, generator=generator).half() for key, shape in chosen.items()}
        save_file(tensors, folder / f"{name}.safetensors")
        models[name] = open_checkpoint(folder / f"{name}.safetensors")
        random_activations(folder / f"{name}.act.safetensors", models[name], chosen)
    return models


@merge_method(elementwise=True)
def in_copies(a: torch.Tensor, b: torch.Tensor, *, alpha: Weight = 0.5) -> torch.Tensor:
    """The plain merge of copies in fp32, which every program does that does not fuse it into one call.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        alpha: share of B.
    """
    return a.lerp(b, alpha)


class Merging:
    """Two models and their activations, in a folder, merged with one number for every block and with saliency."""

    def __init__(self, folder: Path, models: dict[str, Checkpoint]) -> None:
        saliency = {name: {"path": str(folder / f"{name}.act.safetensors"), "sha256": ""} for name in "ab"}
        self.settings = {"scalar": MergeSettings(), "tensor": MergeSettings(saliency=saliency)}
        self.models, self._folder = models, folder

    def others(self) -> dict[str, MergeSettings]:
        """The plain merge in copies; a number for every column, or every place, from a plain file."""
        generator = torch.Generator().manual_seed(3)
        shapes = {key: shape for key, shape in self.models["a"].shapes.items() if len(shape) > 1}
        sizes = {
            "columns": {key: (1, shape[1], *(1,) * (len(shape) - 2)) for key, shape in shapes.items()},
            "places": shapes,
        }
        made = {"copies": MergeSettings(method="in_copies")}
        made |= {name: replace(self.settings["tensor"], method=name) for name in _SALIENT}
        for name, own in sizes.items():
            path = self._folder / f"{name}.safetensors"
            save_file({key: torch.rand(shape, generator=generator).half() for key, shape in own.items()}, path)
            made[name] = MergeSettings(act={"alpha": {"path": str(path), "sha256": ""}})
        return made

    def weights(self, kind: str, alpha: float) -> dict[str, dict[str, float]]:
        """One alpha for all blocks."""
        own = {"alpha": dict.fromkeys(SD1.blocks, alpha)}
        return own | ({"strength": dict.fromkeys(SD1.blocks, 1.5)} if kind in (*_SALIENT, "tensor") else {})

    def written(self, kind: str) -> Callable[[], None]:
        """What writes the merge."""
        models = {name: self.models[name] for name in "ab"}
        references = {name: ModelRef(str(model.path), model.sha256()) for name, model in models.items()}
        settings, weights = vars(self.settings[kind]), self.weights(kind, 0.4)
        recipe = MergeRecipe(**settings, models=references, weights=weights, architecture="sd1")
        return lambda: save_merge(recipe, models, self._folder / "out.safetensors", replace=True)

    def cost_of_writing(self, rounds: int) -> float:
        """The CPU seconds of the written merge with saliency, as a ratio to that without."""
        return ratios({kind: self.written(kind) for kind in self.settings}, rounds)["tensor"]

    def live(self, kind: str, settings: MergeSettings, destinations: Mapping[str, torch.Tensor]) -> Callable[[], None]:
        """What writes another candidate each time."""
        names = settings.spec.models
        candidate = LiveMerge({name: self.models[name] for name in names}, settings, memory=2**32)
        alphas = iter([0.1 + 0.01 * number for number in range(80)])
        return lambda: candidate.apply(self.weights(kind, next(alphas)), destinations)


def merging(folder: Path, rounds: int = ROUNDS) -> list[Row]:
    """The same merge with one number for every block, and with saliency, written and live."""
    own = Merging(folder, make_models(folder, BLOCKS))
    shapes_of = own.models["a"].shapes
    merged = [key for key in shapes_of if SD1.place(key).role in ("block", "vae")]

    settings = own.settings | own.others()

    def live(dtype: str, precision: torch.dtype) -> dict[str, float]:
        room = {key: torch.empty(shapes_of[key], dtype=precision) for key in merged}
        work = {kind: own.live(kind, replace(made, dtype=dtype), room) for kind, made in settings.items()}
        return ratios(work, rounds)

    rows = [("a written merge of five blocks with saliency / without", own.cost_of_writing(rounds), 1.5)]
    for what, found in (
        ("a live candidate in fp32", live("fp32", torch.float32)),
        ("one of fp16 models in a network in fp32, as a CPU draws it", live("fp16", torch.float32)),
        ("a live candidate in fp16", live("fp16", torch.float16)),
    ):
        rows += [
            (f"{what}, with saliency / without", found["tensor"], 1.5),
            (f"{what}, with saliency / without, in copies in fp32", found["tensor"] / found["copies"], 3.0),
            *((f"{what}, by {name} / in copies", found[name] / found["copies"], 3.0) for name in _SALIENT),
            (f"{what}, with a number for each column / in copies", found["columns"] / found["copies"], 1.3),
            (f"{what}, with a number for each place / in copies", found["places"] / found["copies"], 1.3),
        ]
    return rows


def whole(folder: Path) -> list[Row]:
    """The merge of whole models, written."""
    own = Merging(folder, make_models(folder, ("",)))
    cost = own.cost_of_writing(ROUNDS_OF_WHOLE)
    clock, memory = commanded(folder)
    return [
        ("a written merge of all of Stable Diffusion 1.5 with saliency / without", cost, 1.5),
        ("the command `merge` for that, by the clock and on all cores, with saliency / without", clock, 1.5),
        ("MiB of memory that it takes more", memory, 64),
    ]


def commanded(folder: Path, rounds: int = ROUNDS) -> tuple[float, float]:
    """What a person waits for with saliency, as a ratio to a merge without, and the MiB of memory that it takes more.

    Both are of the best of some goes.
    """
    command = [sys.executable, "-m", "bayes_merger", "merge", "alpha=0.4", "--overwrite"]
    command += ["--out", f"{folder}/out.safetensors"]
    command += [f"model_{name}={folder}/{name}.safetensors" for name in "ab"]
    ways = {"scalar": command, "tensor": [*command, "strength=1.5"]}
    ways["tensor"] += [f"saliency.{name}={folder}/{name}.act.safetensors" for name in "ab"]
    times: dict[str, list[float]] = {way: [] for way in ways}
    memory = {way: float("inf") for way in ways}
    for _ in range(rounds):
        for way, typed in ways.items():
            begin = time.perf_counter()
            process = subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            highest = 0.0
            while process.poll() is None:
                highest = max(highest, _memory(process.pid, "VmHWM"))
                time.sleep(0.01)
            if process.returncode:
                sys.exit(f"{' '.join(typed)}: failed")
            times[way].append(time.perf_counter() - begin)
            memory[way] = min(memory[way], highest)
    return min(times["tensor"]) / min(times["scalar"]), memory["tensor"] - memory["scalar"]


def _memory(process: int, which: str) -> float:
    """MiB of a running process: ``VmRSS`` now, ``VmHWM`` at most so far.

    What it was started from does not count, as it does in ``ru_maxrss``.
    """
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{which}:")]
    return int(found[0]) / 1024 if found else 0.0


def main() -> None:
    """Measure all of it."""
    torch.set_num_threads(1)
    before, rows = os.getloadavg()[0], [*layer(), *drawing()]
    for part in (winners, many_pictures, full_size, candidates, merging, whole):
        with tempfile.TemporaryDirectory() as folder:
            rows += part(Path(folder))
        write(rows, before)
    print(RESULTS.read_text(encoding="utf-8"))


def write(rows: list[Row], before: float) -> None:
    """Write what is known so far; ``before`` is how many programs wanted the cores at the start."""
    text = REPORT.format(
        rounds=ROUNDS, whole=ROUNDS_OF_WHOLE, cores=os.cpu_count(), before=before, after=os.getloadavg()[0]
    )
    lines = [text, "| what | ratio | goal |", "| --- | --- | --- |"]
    lines += [f"| {what} | {found:.3g} | {goal:g}{'' if found <= goal else ', missed'} |" for what, found, goal in rows]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
