"""Searches at equal budget on two models with different skills: with saliency, without, and with its channels shuffled.

    python benchmarks/saliency_search.py search --trials 40 --seeds 0 1 2 3 4 5
    python benchmarks/saliency_search.py report      # benchmarks/results/saliency_search.md

The pair is that of ``saliency_merges.py``, in which all 26 weights matter. A seed decides the start design, the
pictures' seeds and the sampler. ``gates`` searches the strength of saliency beside the blocks, as a run does that is
given files; ``shuffled`` has the same saliency with the channels of every tensor in a random order, which tells
nothing; ``winner`` takes every number from the model that responds more. A trial has 64 pictures; what a search hands
over by its posterior mean is judged by 128 fresh ones, on seeds that no trial has used, the same for all. All that was
made is kept in ``--cache``; a run goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import torch
from saliency_merges import make_pair, measured, shuffled
from search_demo import ROOT, Demo

RESULTS = Path(__file__).parent / "results" / "saliency_search.md"
REPORT = """# Searches with saliency and without

Written by `python benchmarks/saliency_search.py report`: {trials} trials of 64 pictures; points of what a search hands
over by its posterior mean, on 128 fresh pictures. Beside them stands how far they are above those of the search without
saliency: of each seed with the standard error over pictures, then with that over the seeds.
"""
PICTURES = 8
KINDS = {"plain": "", "gates": "act", "shuffled": "shuffled", "winner": "act"}
"""Of searches, and what the files of their saliency are called."""
OPTIMISER = "structured"
FRESH = 16
MODELS = "ab"


def make_files(pair: Path) -> None:
    """Train A and B, and measure them, unless that is done."""
    make_pair(pair)
    for name in MODELS:
        found = measured(pair / f"{name}.safetensors", pair / f"{name}.act.safetensors", 2)
        shuffled(found, pair / f"{name}.shuffled.safetensors")


def arm(name: str, seed: int, cache: Path) -> Demo:
    """A search of one kind."""
    pair = cache / "pair"
    more = [f"model_{letter}={pair / letter}.safetensors" for letter in MODELS]
    more += ["n_iters=80", f"images_per_prompt={PICTURES}"]
    if name != "plain":
        more += [f"saliency.{letter}={pair / letter}.{KINDS[name]}.safetensors" for letter in MODELS]
    if name == "winner":
        more.append("saliency.takes=winner")
    return Demo(OPTIMISER, seed, cache / name, more, FRESH)


def search(seed: int, trials: int, kinds: Sequence[str], cache: Path) -> None:
    """Search with some kinds, and judge by fresh pictures what each hands over."""
    path = cache / "results" / f"{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in kinds:
        own = arm(name, seed, cache)
        kept = own.kept(own.study(trials), trials)["posterior"]
        found[name] = own.points(own.judged(kept, "fresh"))
        print(seed, name, round(float(np.mean(found[name])), 3), kept, flush=True)
        path.write_text(json.dumps(found))


def table(cache: Path) -> list[str]:
    """Mean points of each seed, and how far above those without saliency they are, picture by picture."""
    results = {int(path.stem): json.loads(path.read_text()) for path in sorted((cache / "results").glob("*.json"))}
    lines = ["| search | seeds | points | above plain, by seed | over the seeds |", "| --- | --- | --- | --- | --- |"]
    for name in KINDS:
        found = {seed: points for seed, points in results.items() if {"plain", name} <= points.keys()}
        if not found:
            continue
        means = ", ".join(f"{np.mean(points[name]):.2f}" for points in found.values())
        above = [np.subtract(points[name], points["plain"]) for points in found.values()]
        by_seed = ", ".join(map(_with_error, above)) if name != "plain" else ""
        over = _with_error([float(np.mean(each)) for each in above]) if name != "plain" else ""
        lines.append(f"| {name} | {', '.join(map(str, found))} | {means} | {by_seed} | {over} |")
    return lines


def _with_error(differences: Sequence[float] | np.ndarray) -> str:
    """Their mean, and its standard error where there are several."""
    text = f"{np.mean(differences):+.2f}"
    return text if len(differences) < 2 else f"{text} ± {np.std(differences, ddof=1) / np.sqrt(len(differences)):.2f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pair", "search", "report"))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "saliency-search")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    if options.what != "report":
        make_files(options.cache / "pair")
    if options.what == "search":
        for seed in options.seeds:
            search(seed, options.trials, options.kinds, options.cache)
    if options.what == "report":
        text = REPORT.format(trials=options.trials)
        RESULTS.write_text("\n".join([text, *table(options.cache), ""]))
        print(RESULTS.read_text())


if __name__ == "__main__":
    main()
