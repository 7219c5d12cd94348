"""Is it worth measuring the effect of every block first, and to leave alone those that do little?

    python benchmarks/from_effect.py measure 0 1 2     # these seeds; goes on where it was stopped
    python benchmarks/from_effect.py report            # benchmarks/results/from_effect.md

The demo's two specialists, by the default optimiser. Both ways draw the same number of pictures: one spends all of them
on trials, the other first measures each block (two prompts of two pictures, and model A's) and then searches with
``space.from_effect``. What each hands over, the trial of the best posterior mean, is judged on the same fresh pictures.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from search_demo import ROOT, Demo

from bayes_merger.atomic import write_atomically
from bayes_merger.imaging.payload import resolve
from bayes_merger.merging.engine.difference import difference
from bayes_merger.run.effect.entries import entries_of
from bayes_merger.run.effect.measuring import measure
from bayes_merger.run.effect.table import as_csv, as_data
from bayes_merger.run.evaluator import PipelineEvaluator
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.setup import RunSetup
from bayes_merger.search.space.from_effect import read_from_effect
from bayes_merger.testing.progress import RecordingReporter

RESULTS = Path(__file__).parent / "results" / "from_effect.md"
PICTURES = 320  # of a search, one of each of eight prompts a trial
FRESH = 8  # of each prompt
PROMPTS, EACH = ("demo_ring", "demo_diamond"), 2
BUDGET = [f"images_budget={PICTURES}", "images_per_prompt=1", "final.images=0"]
REPORT = f"""# A search with and without measuring the blocks first

Written by `python benchmarks/from_effect.py report`: the demo's two specialists, by the default optimiser, {PICTURES}
pictures either way. Points of what is handed over are the mean of {FRESH} fresh pictures of each of eight prompts.
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "report"])
    parser.add_argument("seeds", type=int, nargs="*")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "from-effect")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.what == "report":
        RESULTS.write_text("\n".join([REPORT, *table(options.cache), ""]))
        print(RESULTS.read_text())
        return
    for seed in options.seeds:
        _measure(seed, options.cache)


def _measure(seed: int, cache: Path) -> None:
    plain = Demo("structured", seed, cache / "plain", BUDGET, FRESH)
    path = cache / f"seed-{seed}.csv"
    if not path.is_file():
        _write_effects(plain.setup, seed, path)
    spent = json.loads(path.with_suffix(".json").read_text())
    narrow = Demo("structured", seed, cache / "narrow", [*BUDGET, f"space.from_effect={path}"], FRESH)
    found: dict[str, Any] = {"effect": spent}
    for name, demo, pictures in (("plain", plain, PICTURES), ("narrow", narrow, PICTURES - spent["pictures"])):
        trials = pictures // sum(payload.batch_size for payload in demo.setup.payloads)
        kept = demo.kept(demo.study(trials), trials)["posterior"]
        found[name] = {
            "trials": trials,
            "numbers": len(demo.space.parameters),
            "points": demo.points(demo.judged(kept, "fresh")),
        }
    effect = read_from_effect(narrow.setup.config.space)
    assert effect is not None
    found["frozen"] = dict(effect.frozen or {})
    write_atomically(cache / f"result-{seed}.json", json.dumps(found))
    print(seed, {name: round(float(np.mean(found[name]["points"])), 3) for name in ("plain", "narrow")}, flush=True)


def _write_effects(setup: RunSetup, seed: int, path: Path) -> None:
    """Measure every block, and what that costs."""
    own = [
        replace(payload, seed=-1, seeds=(), prompts=(), negative_prompts=(), batch_size=EACH)
        for payload in setup.payloads
        if payload.name in PROMPTS
    ]
    setup = replace(setup, payloads=resolve(own, 7919 * 89 + seed, None))
    began = time.process_time()
    entries = entries_of(["blocks"], difference(setup.checkpoints), setup.architecture)
    silent = RecordingReporter()
    effects = measure(
        setup,
        lambda: PipelineEvaluator.load(setup, silent, StopSignal(silent)),
        entries,
        len(entries),
        lambda *_: None,
    )
    cpu = time.process_time() - began
    drawn = sum(bool(effect.measures) for effect in effects)
    pictures = (drawn + 1) * EACH * len(PROMPTS)
    told = {"pictures": pictures, "entries": len(entries), "drawn": drawn, "cpu": cpu, "load": os.getloadavg()[0]}
    write_atomically(path.with_suffix(".json"), json.dumps(told))
    models = {name: checkpoint.sha256() for name, checkpoint in setup.checkpoints.items()}
    write_atomically(path, as_csv(as_data(effects, models)))


def table(cache: Path) -> list[str]:
    """What each seed got, and the difference over all, as Markdown."""
    lines = ["| seed | plain | blocks measured first | frozen |", "|---|---|---|---|"]
    above, costs = [], []
    for path in sorted(cache.glob("result-*.json")):
        found = json.loads(path.read_text())
        means = {name: float(np.mean(found[name]["points"])) for name in ("plain", "narrow")}
        cells = [f"{means[n]:.2f} ({found[n]['trials']} trials, {found[n]['numbers']} numbers)" for n in means]
        frozen = ", ".join(name.partition(".")[0] for name in found["frozen"])
        lines.append(f"| {path.stem.partition('-')[2]} | {' | '.join(cells)} | {frozen} |")
        above.append(means["narrow"] - means["plain"])
        costs.append(found["effect"])
    error = f" ± {np.std(above, ddof=1) / np.sqrt(len(above)):.2f}" if len(above) > 1 else ""
    each = ", ".join(f"{cost['cpu']:.0f} s of CPU at load {cost['load']:.0f}" for cost in costs)
    return [
        *lines,
        "",
        f"Measuring first: {np.mean(above):+.2f}{error} points, the standard error over {len(above)} seeds. Measuring "
        f"{costs[0]['entries']} blocks, of which {costs[0]['drawn']} differ, took: {each}.",
    ]


if __name__ == "__main__":
    main()
