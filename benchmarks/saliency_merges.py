"""Merges without a search, with saliency and without, on both of the demo's pairs, judged by fresh pictures.

    python benchmarks/saliency_merges.py --cache FOLDER     # benchmarks/results/saliency_merges.md

The first pair are models of different skills (`bayes_merger.demo.skills`), which are trained in FOLDER if they are not
there; the second is the shipped one. Both are measured by eight pictures each, on other seeds than those that judge.
The best block weights are those that gradients find on true captions, in the place of a long search.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call

from bayes_merger import compose, demo
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.activations.sums import Activations, merged
from bayes_merger.demo import denoiser, networks, pictures, skills, train
from bayes_merger.demo.denoiser import Denoiser
from bayes_merger.demo.landscape import BLOCKS, block_of
from bayes_merger.imaging import load_pipeline
from bayes_merger.run.activations import measure
from bayes_merger.run.anchors import read_anchor
from bayes_merger.run.evaluator import PipelineEvaluator
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.session import make_setup
from bayes_merger.testing.progress import RecordingReporter

RESULTS = Path(__file__).parent / "results" / "saliency_merges.md"
REPORT = """# Merges with saliency and without, without a search

Written by `python benchmarks/saliency_merges.py`: points of 128 fresh pictures, 16 of each prompt; differences are
paired by prompt and seed, with a standard error over pictures. Models of different skills first, then the shipped pair.
"""
EXPERIMENT = "experiment=demo"
MEASURED, JUDGED = 7919, 7919 * 97
"""Seeds of the pictures that are measured, and of those that judge."""
STRENGTH = 1.5
VECTORS = 14
"""Of random block weights."""

Weights = Mapping[str, float | Mapping[str, float]]
"""A method's weights: one number for all blocks, or one each."""


def make_pair(folder: Path) -> None:
    """Train the models of different skills, unless they are there."""
    if not all((folder / f"{name}.safetensors").is_file() for name in "abc"):
        skills.main(["--out", str(folder), "--threads", "1"])


def measured(model: Path, out: Path, each: int = 1) -> Path:
    """Activations of so many pictures of each prompt, unless they are there."""
    if not out.is_file():
        more = [f"model_a={model}", f"seed={MEASURED}"]
        more += [f"payloads.{name}.batch_size={each}" for name in compose.compose_run([EXPERIMENT])["payloads"]]
        measure(compose.validate(compose.compose_run([EXPERIMENT, *more])), out, print)
    return out


def shuffled(path: Path, out: Path) -> Path:
    """The activations with the channels of each tensor in a random order, the same for all models and statistics."""
    found: Activations = merged([path])
    for key, sums in found.sums.items():
        for side in ("in", "out"):
            for name in [name for name in sums if name.endswith(side)]:
                order = np.random.default_rng(list(f"{key} {side}".encode())).permutation(sums[name].shape[1])
                sums[name] = sums[name][:, torch.from_numpy(order)]
    found.save(out, overwrite=True)
    return out


class Drawing:
    """Merges of one method, drawn and judged; what was judged is remembered in a folder."""

    def __init__(self, cache: Path, name: str, settings: Sequence[str], each: int) -> None:
        chosen = compose.compose_run([EXPERIMENT, f"seed={JUDGED}", f"images_per_prompt={each}", *settings])
        self.setup = make_setup(compose.validate(chosen), chosen, RunFolder(cache / "unused"))
        self._evaluator: PipelineEvaluator | None = None
        self._path = cache / "judged" / f"{name}-{each}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, list[float]] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    def points(self, **weights: float | Mapping[str, float]) -> np.ndarray:
        """Points of each picture of a merge."""
        full = {name: x if isinstance(x, Mapping) else dict.fromkeys(BLOCKS, x) for name, x in weights.items()}
        text = json.dumps(full, sort_keys=True)
        if text not in self._known:
            if self._evaluator is None:
                silent = RecordingReporter()
                self._evaluator = PipelineEvaluator.load(self.setup, silent, StopSignal(silent))
            self._evaluator.load_weights(full)
            images = self._evaluator.draw(self.setup.payloads)
            found = self.setup.combination.picture_points(self._evaluator.score(full, images, ()))
            self._known[text] = list(found.values())
            self._path.write_text(json.dumps(self._known))
        return np.array(self._known[text])


def best_block_weights(folder: Path, steps: int = 150) -> dict[str, float]:
    """The block weights whose merge denoises true captions best: Adam on all 26, from the even mix."""
    path = folder / "best.json"
    if path.is_file():
        known: dict[str, float] = json.loads(path.read_text())
        return known
    torch.manual_seed(11)
    states = {}
    for name in "ab":
        live = load_pipeline(folder / f"{name}.safetensors", config=demo.config_dir(), device="cpu").architecture.model
        model = Denoiser(live.modules["unet"].float(), live.modules["text_encoder"].float())
        states[name] = {key: tensor.detach().clone() for key, tensor in model.unet.named_parameters()}
    vae, rng, tokenizer = live.modules["vae"].float(), np.random.default_rng(12), networks.tokenizer()
    scenes = [pictures.scene(rng) for _ in range(1000)]
    latents = denoiser.encode(vae, scenes, rng, device="cpu") * vae.config.scaling_factor
    cumulative = denoiser.alphas_cumulative()
    alphas = torch.full((len(BLOCKS),), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([alphas], lr=0.05)
    place = {key: BLOCKS.index(block_of(f"unet.{key}")) for key in states["a"]}
    for step in range(steps):
        chosen = rng.integers(len(scenes), size=32)
        noise, times = torch.randn(32, *latents.shape[1:]), torch.randint(0, 1000, (32,))
        signal = cumulative[times].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents[torch.from_numpy(chosen)] + (1 - signal).sqrt() * noise
        with torch.no_grad():
            hidden = denoiser.encode_text(
                model, tokenizer, [train.true_words(scenes[i], rng) for i in chosen], device="cpu"
            )
        mixed = {key: torch.lerp(a, states["b"][key], alphas[place[key]]) for key, a in states["a"].items()}
        ratio = signal / (1 - signal)
        weight = (ratio.clamp(max=5) / ratio * ratio.clamp(max=1).pow(-0.5)).view(-1)
        guess = functional_call(model.unet, mixed, (noisy, times, hidden)).sample
        loss = ((guess - noise).square().mean((1, 2, 3)) * weight).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            alphas.clamp_(0, 1)
        if step % 30 == 0:
            print(f"best block weights: step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    found = dict(zip(BLOCKS, alphas.tolist(), strict=True))
    path.write_text(json.dumps(found))
    return found


def agreement(few: Sequence[Path], many: Sequence[Path]) -> float:
    """The share of weights in which the same model responds more, by few pictures of A and B and by many."""
    same = total = 0
    one, two = _log_ratios(few), _log_ratios(many)
    for key, found in one.items():
        same += int(((found > 0) == (two[key] > 0)).sum())
        total += found.numel()
    return same / total


def _log_ratios(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """For each weight, `log s_B / s_A` of all its rows and columns."""
    a, b = (Sidecar(path) for path in files)
    ratios = {}
    for key, statistics in a.statistics.items():
        if {"guided_in", "guided_out"} <= {*statistics} and {*statistics} <= {*b.statistics[key]}:
            rows, columns = (b.mean(key, s).log() - a.mean(key, s).log() for s in ("guided_out", "guided_in"))
            ratios[key] = (rows[:, None] + columns).nan_to_num()
    return ratios


def with_error(numbers: np.ndarray) -> str:
    """A mean and its standard error."""
    return f"{np.mean(numbers):.2f} ± {np.std(numbers, ddof=1) / np.sqrt(len(numbers)):.2f}"


def different_skills(cache: Path) -> list[str]:
    """All of the first pair."""
    pair = cache / "pair"
    make_pair(pair)
    files = [measured(pair / f"{name}.safetensors", pair / f"{name}.act.safetensors") for name in "ab"]
    more = [measured(pair / f"{name}.safetensors", pair / f"{name}.32.safetensors", 4) for name in "ab"]
    wrong = [shuffled(file, pair / f"{name}.shuffled.safetensors") for name, file in zip("ab", files, strict=True)]
    models = [f"model_{name}={pair / name}.safetensors" for name in "ab"]

    def settings(saliency: Sequence[Path], *further: str) -> list[str]:
        return [*models, *(f"saliency.{n}={file}" for n, file in zip("ab", saliency, strict=False)), *further]

    ancestor = (f"model_c={pair / 'c.safetensors'}", "saliency.centre=none")
    plain = Drawing(cache, "plain", settings([]), 16)
    most = Drawing(cache, "most", settings(files, "method=most_salient", *ancestor), 16)
    share = Drawing(cache, "share", settings(files, "method=salient_sum", *ancestor), 16)
    c = Drawing(cache, "c", [f"model_a={pair / 'c.safetensors'}", f"model_b={pair / 'a.safetensors'}"], 16)
    gates = Drawing(cache, "gates", settings(files), 16)
    best = best_block_weights(pair)
    found = {
        "C, the ancestor": c.points(alpha=0.0),
        "A": plain.points(alpha=0.0),
        "B": plain.points(alpha=1.0),
        "even mix": plain.points(alpha=0.5),
        "best block weights, by gradients": plain.points(alpha=best),
        "the same with saliency of strength 1.5": gates.points(alpha=best, strength=STRENGTH),
        "blocks by the response alone, `anchors=[saliency]`": plain.points(**read_anchor("saliency", gates.setup)[0]),
        "`salient_sum` by the difference alone": share.points(alpha=0.5, strength=0.0),
        "`salient_sum` with the response": share.points(alpha=0.5, strength=1.0),
        "`most_salient` by the difference alone": most.points(alpha=0.5, strength=0.0),
        "`most_salient` with the response": most.points(alpha=0.5, strength=1.0),
    }
    lines = ["| models of different skills | points |", "| --- | --- |"]
    lines += [f"| {name} | {with_error(points)} |" for name, points in found.items()]
    winner = found["`most_salient` with the response"]
    even = found["even mix"]
    few = {name: Drawing(cache, name, settings(own), 4) for name, own in
           (("plain", ()), ("gates", files), ("shuffled", wrong))}  # fmt: skip
    rng = np.random.default_rng(14)
    vectors = [dict(zip(BLOCKS, rng.uniform(size=len(BLOCKS)).tolist(), strict=True)) for _ in range(VECTORS)]
    without = [few["plain"].points(alpha=vector).mean() for vector in vectors]
    above = {
        name: np.array([few[name].points(alpha=vector, strength=STRENGTH).mean() for vector in vectors]) - without
        for name in ("gates", "shuffled")
    }
    specialists = min(found["A"].mean(), found["B"].mean()) - found["C, the ancestor"].mean()
    rows = [
        ("C", f"{found['C, the ancestor'].mean():.2f}", "below 2.5"),
        ("the weaker of A and B above C", f"{specialists:+.2f}", "0.8"),
        ("best block weights above the even mix", with_error(found["best block weights, by gradients"] - even), "1.0"),
        ("`most_salient` with the response above the even mix", with_error(winner - even), "1.2"),
        (
            "above `most_salient` by the difference alone",
            with_error(winner - found["`most_salient` by the difference alone"]),
            "0.15",
        ),
        ("above the best block weights", with_error(winner - found["best block weights, by gradients"]), "-0.3"),
        (
            "the best block weights with saliency above them without",
            with_error(found["the same with saliency of strength 1.5"] - found["best block weights, by gradients"]),
            "",
        ),
        (
            f"{VECTORS} random block weights, 32 pictures each, with saliency above the same without",
            with_error(above["gates"]),
            "0.12, and 3 errors",
        ),
        ("the same with its channels shuffled", with_error(above["shuffled"]), "within 0.08 of 0"),
        ("weights with the same winner by 8 pictures as by 32", f"{agreement(files, more):.1%}", "95 %"),
    ]
    lines += ["", "| what | found | goal |", "| --- | --- | --- |"]
    return lines + [f"| {what} | {value} | {goal} |" for what, value, goal in rows]


def shipped(cache: Path) -> list[str]:
    """All of the second pair."""
    files = [measured(demo.model_path(name), cache / f"shipped-{name}.act.safetensors") for name in ("a", "b")]
    settings = [f"saliency.{name}={file}" for name, file in zip("ab", files, strict=True)]
    plain = Drawing(cache, "shipped", [], 16)
    anchor = read_anchor("saliency", Drawing(cache, "shipped-gates", settings, 16).setup)[0]
    gates = Drawing(cache, "shipped-gates", settings, 16)
    blamed = Drawing(cache, "shipped-share", [*settings, "method=salient_sum", f"model_c={demo.model_path('c')}"], 16)
    found = {
        "A": plain.points(alpha=0.0),
        "B": plain.points(alpha=1.0),
        "even mix": plain.points(alpha=0.5),
        "even mix with saliency of strength 1.5": gates.points(alpha=0.5, strength=STRENGTH),
        "blocks by the response alone, `anchors=[saliency]` (goal: 4.0)": plain.points(**anchor),
        "the same with saliency of strength 1": gates.points(**anchor, strength=1.0),
        "`salient_sum` by the difference to C, which is damage here": blamed.points(alpha=0.5, strength=0.0),
    }
    lines = ["", "| the shipped pair | points |", "| --- | --- |"]
    return lines + [f"| {name} | {with_error(points)} |" for name, points in found.items()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    lines = [REPORT, *different_skills(options.cache), *shipped(options.cache), ""]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
