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
from safetensors.torch import load_file
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
from bayes_merger.setups import make_setup
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

MODELS = "ab"
EACH = 16
"""Pictures of each prompt that judge a merge."""
EVEN, BEST = "even mix", "best block weights, by gradients"
WON = "even mix with `strength=winner`"
MOVED = "the same with saliency of strength 1.5"
ALONE, MOST = "`most_salient` by the difference alone", "`most_salient` with the response"


def make_pair(folder: Path, seed: int = 0) -> None:
    """Train the models of different skills, unless they are there."""
    if not all((folder / f"{name}.safetensors").is_file() for name in "abc"):
        skills.main(["--out", str(folder), "--threads", "1", "--seed", str(seed)])


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
        guess = functional_call(model.unet, mixed, (noisy, times, hidden)).sample
        loss = denoiser.error(guess, noise, signal, emphasis=0.5)
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


def agreement(few: Sequence[Path], many: Sequence[Path], pair: Path | None = None) -> float:
    """The share of weights that have the same winner by few pictures of A and B and by many.

    Args:
        few: files of activations of A and B.
        many: the same of more pictures.
        pair: the models' folder, where the winner is that of `most_salient`, with the differences to C; else it is the
            one that responds more.
    """
    same = total = 0
    one, two = _log_ratios(few), _log_ratios(many)
    moved = {} if pair is None else _log_moves(pair)
    for key, found in one.items():
        further = moved.get(key, torch.zeros(()))
        winners = [(ratio[..., None] + further) > 0 for ratio in (found, two[key])]
        same += int((winners[0] == winners[1]).sum())
        total += winners[0].numel()
    return same / total


def _log_moves(pair: Path) -> dict[str, torch.Tensor]:
    """For each weight, `log (B - C)^2 / (A - C)^2`, taps last."""
    a, b, c = (load_file(pair / f"{name}.safetensors") for name in "abc")
    moves = {}
    for key in [key for key, tensor in a.items() if tensor.dim() > 1]:
        of_a, of_b = ((model[key].double() - c[key].double()).abs().log() for model in (a, b))
        moves[key] = 2 * (of_b - of_a).reshape(*a[key].shape[:2], -1)
    return moves


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


class Skills:
    """The pair of different skills: its files, what merges of it get, and what is made of that."""

    def __init__(self, cache: Path, seed: int = 0) -> None:
        self._cache, self._pair = cache, cache / "pair"
        make_pair(self._pair, seed)
        self.files, self._more = self._measured("act"), self._measured("32", 4)
        both = zip(MODELS, self.files, strict=True)
        self._wrong = [shuffled(file, self._pair / f"{name}.shuffled.safetensors") for name, file in both]
        self._models = [f"model_{name}={self._pair / name}.safetensors" for name in MODELS]

    def _measured(self, name: str, each: int = 1) -> list[Path]:
        return [measured(self._pair / f"{m}.safetensors", self._pair / f"{m}.{name}.safetensors", each) for m in MODELS]

    def _drawing(self, name: str, saliency: Sequence[Path] = (), *further: str, each: int = EACH) -> Drawing:
        files = [f"saliency.{model}={file}" for model, file in zip(MODELS, saliency, strict=False)]
        return Drawing(self._cache, name, [*self._models, *files, *further], each)

    def merges(self) -> dict[str, np.ndarray]:
        """Points of every merge, picture by picture."""
        ancestor = f"model_c={self._pair / 'c.safetensors'}"
        with_c = ancestor, "saliency.centre=none"
        plain, gates = self._drawing("plain"), self._drawing("gates", self.files)
        most = self._drawing("most", self.files, "method=most_salient", *with_c)
        share = self._drawing("share", self.files, "method=salient_sum", *with_c)
        won = self._drawing("won", self.files, "saliency.takes=winner")
        c = Drawing(self._cache, "c", [ancestor.replace("_c=", "_a="), f"model_b={self._pair / 'a.safetensors'}"], EACH)
        best, anchor = best_block_weights(self._pair), read_anchor("saliency", gates.setup)[0]
        return {
            "C, the ancestor": c.points(alpha=0.0),
            "A": plain.points(alpha=0.0),
            "B": plain.points(alpha=1.0),
            EVEN: plain.points(alpha=0.5),
            BEST: plain.points(alpha=best),
            MOVED: gates.points(alpha=best, strength=STRENGTH),
            "blocks by the response alone": plain.points(alpha=anchor["alpha"]),
            "`anchors=[saliency]`: these with saliency of strength 1": gates.points(**anchor),
            WON: won.points(alpha=0.5),
            "`salient_sum` by the difference alone": share.points(alpha=0.5, strength=0.0),
            "`salient_sum` with the response": share.points(alpha=0.5, strength=1.0),
            ALONE: most.points(alpha=0.5, strength=0.0),
            MOST: most.points(alpha=0.5, strength=1.0),
        }

    def random_blocks(self) -> dict[str, np.ndarray]:
        """How far merges of random block weights with saliency are above the same without, by kind of saliency."""
        plain, rng = self._drawing("plain", each=4), np.random.default_rng(14)
        vectors = [dict(zip(BLOCKS, rng.uniform(size=len(BLOCKS)).tolist(), strict=True)) for _ in range(VECTORS)]
        without = [plain.points(alpha=vector).mean() for vector in vectors]
        above = {}
        for name, files in (("gates", self.files), ("shuffled", self._wrong)):
            drawing = self._drawing(name, files, each=4)
            points = [drawing.points(alpha=vector, strength=STRENGTH).mean() for vector in vectors]
            above[name] = np.subtract(points, without)
        return above

    def same_winners(self) -> float:
        """The share of weights in which `most_salient` takes the same model by 8 pictures as by 32."""
        return agreement(self.files, self._more, self._pair)

    def report(self) -> list[str]:
        """The tables."""
        found, above = self.merges(), self.random_blocks()
        weaker = min(found["A"].mean(), found["B"].mean()) - found["C, the ancestor"].mean()
        rows = [
            ("C", f"{found['C, the ancestor'].mean():.2f}", "below 2.5"),
            ("the weaker of A and B above C", f"{weaker:+.2f}", "0.8"),
            ("best block weights above the even mix", with_error(found[BEST] - found[EVEN]), "1.0"),
        ]
        for name in (MOST, WON):
            rows += [
                (f"{name}: above the even mix", with_error(found[name] - found[EVEN]), "1.2"),
                (f"above {ALONE}", with_error(found[name] - found[ALONE]), "0.15"),
                ("above the best block weights", with_error(found[name] - found[BEST]), "-0.3"),
            ]
        rows += [
            ("the best block weights with saliency above them without", with_error(found[MOVED] - found[BEST]), ""),
            (
                f"{VECTORS} random block weights, 32 pictures each, with saliency above the same without",
                with_error(above["gates"]),
                "0.12, and 3 errors",
            ),
            ("the same with its channels shuffled", with_error(above["shuffled"]), "within 0.08 of 0"),
            (
                "weights with the same winner of `most_salient` by 8 pictures as by 32",
                f"{self.same_winners():.1%}",
                "95 %",
            ),
            (
                "weights in which the same model responds more by 8 pictures as by 32",
                f"{agreement(self.files, self._more):.1%}",
                "",
            ),
        ]
        lines = [*points_of("models of different skills", found), "", "| what | found | goal |", "| --- | --- | --- |"]
        return lines + [f"| {what} | {value} | {goal} |" for what, value, goal in rows]


def points_of(title: str, found: Mapping[str, np.ndarray]) -> list[str]:
    """A table of merges."""
    return [f"| {title} | points |", "| --- | --- |", *(f"| {n} | {with_error(p)} |" for n, p in found.items())]


def shipped(cache: Path) -> list[str]:
    """All of the second pair."""
    files = [measured(demo.model_path(name), cache / f"shipped-{name}.act.safetensors") for name in ("a", "b")]
    settings = [f"saliency.{name}={file}" for name, file in zip(MODELS, files, strict=True)]
    by_difference = ["method=salient_sum", f"model_c={demo.model_path('c')}"]
    plain, gates = Drawing(cache, "shipped", [], EACH), Drawing(cache, "shipped-gates", settings, EACH)
    blamed = Drawing(cache, "shipped-share", [*settings, *by_difference], EACH)
    anchor = read_anchor("saliency", gates.setup)[0]
    found = {
        "A": plain.points(alpha=0.0),
        "B": plain.points(alpha=1.0),
        EVEN: plain.points(alpha=0.5),
        "even mix with saliency of strength 1.5": gates.points(alpha=0.5, strength=STRENGTH),
        "blocks by the response alone (goal: 4.0)": plain.points(alpha=anchor["alpha"]),
        "`anchors=[saliency]`: these with saliency of strength 1": gates.points(**anchor),
        WON: Drawing(cache, "shipped-won", [*settings, "saliency.takes=winner"], EACH).points(alpha=0.5),
        "`salient_sum` by the difference to C, which is damage here": blamed.points(alpha=0.5, strength=0.0),
    }
    return ["", *points_of("the shipped pair", found)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    lines = [REPORT, *Skills(options.cache).report(), *shipped(options.cache), ""]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
