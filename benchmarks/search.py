"""Optimisers side by side: true regret after so many trials, on landscapes whose optimum is known.

    python benchmarks/search.py run structured bayes --instances 5 --processes 2
    python benchmarks/search.py table
    python benchmarks/search.py report           # docs/optimisers.md and its plots

Every method is what ``conf/optimiser/NAME.yaml`` says, in a study in memory. On an instance all methods have the same
20 design points (pure A, pure B, the even mix, a Latin hypercube), the same noise of the same trial number, and then 80
suggestions, one at a time. Only ``original`` starts as other mergers do, from a Latin hypercube without anchors. Regret
is 0 at the optimum and 1 at the median random point; a score's noise has a standard deviation of 0.05. A finished run
is a JSON file in ``--cache`` and is not run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: two processes of one thread each beat one of two

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from landscapes import BLOCKS, MERGES, STANDARD, Instance, instance
from scipy.stats import rankdata

from bayes_merger.search import build_space
from bayes_merger.search.space.cube import generator, latin_hypercube
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.study import design
from bayes_merger.search.surrogates.posterior import study_posterior

ROOT = Path(__file__).parents[1]
REPORT = """# Optimisers side by side

Written by `python benchmarks/search.py report`; the landscapes are those of `benchmarks/landscapes.py`. On an instance
all methods have the same 20 design points and the same noise (0.05) and then suggest 80 points. Regret is 0 at the
optimum and 1 at the median random point. The tables show the true regret of the trial with the best observed score,
median and quartiles over the instances, and of the trial with the best posterior mean. So few instances separate good
methods from bad ones, but not neighbours in the ranking.

`classic_fast` is `bayes_classic` with exact gradients: the same kernel, noise, restarts and acquisition at a thirtieth
of the cost, though its suggestions differ from the library's own. `original` is the same with the start design of other
mergers: a Latin hypercube without pure A, pure B and the even mix. `botorch`, the optional extra, was not run.
`structured` was tuned on other instances (100 and up). How it alternates with `bayes`, and from which trial on, was
chosen there too, out of three ways; an earlier version of its ensemble had been compared on instances 0 to 4.

On real merges of the demo models, against the library's own optimiser:
[search_demo.md](../benchmarks/results/search_demo.md).

![regret against trials on the standard landscapes](optimisers-standard.png)

![regret against trials on landscapes modelled on merges](optimisers-merges.png)
"""
DESIGN, TRIALS = 20, 100
MOMENTS = (30, 60, 100)
CLASSIC, ORIGINAL = "classic_fast", "original"
REFERENCES = (ORIGINAL, CLASSIC)
# bayesian-optimization's defaults with exact gradients: what bayes_classic does (the same kernel, bounds, noise,
# restarts and acquisition), at a thirtieth of the cost. `run bayes_classic` runs the library's own climb.
_DEFAULTS = "bayes:kappa=2.576:noise=1e-6:length_scale=1.0:length_scale_bounds=[1e-5,1e5]:restarts=5"
ALIASES = dict.fromkeys(REFERENCES, _DEFAULTS)


def sampler_of(method: str, space: Any, seed: int) -> optuna.samplers.BaseSampler:
    """What ``run optimiser=METHOD`` would use; options after colons, as in ``bayes:kappa=2``."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    name, *options = ALIASES.get(method, method).split(":")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        overrides = [
            f"+n_iters={TRIALS - DESIGN}",
            f"+optimiser={name}",
            *(f"optimiser.{option}" for option in options),
        ]
        factory = instantiate(compose(None, overrides=overrides).optimiser)
    made: optuna.samplers.BaseSampler = factory(space, seed)
    return made


def start(method: str, space: SearchSpace, seed: int) -> list[dict[str, float]]:
    """The start design: ours, or, for the original, a Latin hypercube and nothing else."""
    if method != ORIGINAL:
        return design(space, DESIGN, seed)
    points = latin_hypercube(generator(seed), DESIGN, len(space.parameters))
    return [dict(zip(space.distributions(), point, strict=True)) for point in points.tolist()]


def run(method: str, problem: Instance, trials: int = TRIALS) -> dict[str, Any]:
    """One study: the regret and the score of every trial, which trial would be kept, and what suggesting cost.

    Returns:
        ``regret`` and ``score`` per trial; ``kept``: after 30, 60 and 100 trials, which has the best posterior mean,
        as `bayes-merger show` would say; ``cpu``: seconds per suggestion; ``edge``: share of the suggested weights that
        are 0 or 1.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = build_space(BLOCKS, {"alpha": (0.0, 1.0)})
    sampler = sampler_of(method, space.distributions(), problem.number)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in start(method, space, problem.number):
        study.enqueue_trial(row, user_attrs={"phase": "design"})
    points, scores, cpu, kept = [], [], [], []
    for number in range(trials):
        before = time.process_time()
        trial = study.ask(dict(space.distributions()))
        cpu.append(time.process_time() - before)
        point = np.array([trial.params[name] for name in space.distributions()])
        pictures = problem.pictures(point, number)
        trial.set_user_attr("scores", pictures)
        points.append(point)
        scores.append(float(np.mean([picture["value"] for picture in pictures])))
        study.tell(trial, scores[-1])
        if number + 1 in MOMENTS:
            images = [{(p["payload"], p["index"]): p["value"] for p in t.user_attrs["scores"]} for t in study.trials]
            best = study_posterior(study.trials, scores, images).best
            kept.append(best.trial if best else 0)
    return {
        "regret": [round(float(value), 5) for value in problem.regret(np.array(points))],
        "score": [round(score, 5) for score in scores],
        "kept": kept,
        "cpu": [round(seconds, 4) for seconds in cpu[DESIGN:]],
        "edge": round(float(np.mean([(p <= 1e-6) | (p >= 1 - 1e-6) for p in points[DESIGN:]])), 3),
    }


def cached(cache: Path, method: str, landscape: str, number: int) -> dict[str, Any]:
    """The run's result, from its file if it is there."""
    path = cache / method.replace(":", ",") / f"{landscape}-{number}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        result = run(method, instance(landscape, number))
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result))
        partial.replace(path)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def found(cache: Path, landscapes: Sequence[str]) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """What lies in the cache: method -> (landscape, instance) -> result."""
    results: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for path in sorted(cache.glob("*/*.json")):
        landscape, _, number = path.stem.rpartition("-")
        if landscape in landscapes:
            method = path.parent.name.replace(",", ":")
            results.setdefault(method, {})[landscape, int(number)] = json.loads(path.read_text())
    return results


def chosen(result: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """After each trial, the regret of the one with the best score so far: what a user would keep."""
    scores = np.array(result["score"])
    best = [int(np.argmax(scores[: n + 1])) for n in range(len(scores))]
    return np.array(result["regret"])[best]


def at(result: dict[str, Any], trials: int) -> float:
    return float(chosen(result)[trials - 1])


def reached(result: dict[str, Any], goal: float) -> float:
    """Trials until the chosen point is as good as that; infinite if it never is."""
    there = np.flatnonzero(chosen(result) <= goal)
    return float(there[0] + 1) if len(there) else float("inf")


def spread(values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.2f} [{low:.2f}–{high:.2f}]"


def table(cache: Path, landscapes: Sequence[str], moment: int) -> list[str]:
    """The comparison as Markdown: a row per method, best pooled median first, those with few runs last."""
    results = found(cache, landscapes)
    full = {key for runs in results.values() for key in runs}
    # Ranks compare like with like: methods that ran on every instance.
    ranked = [method for method, runs in results.items() if runs.keys() == full]
    ranks: dict[str, list[float]] = {method: [] for method in ranked}
    for key in sorted(full):
        for method, rank in zip(ranked, rankdata([at(results[m][key], moment) for m in ranked]), strict=True):
            ranks[method].append(rank)
    lines = [
        f"| method | {' | '.join(landscapes)} | pooled 30/60/100 | kept by posterior mean | mean rank "
        f"| {' | '.join(f'reaches {reference}@100 at' for reference in REFERENCES)} | CPU s | at the edge |",
        f"|{'---|' * (len(landscapes) + 8)}",
    ]
    order = sorted(results, key=lambda m: (m not in ranked, np.median([at(r, moment) for r in results[m].values()])))
    for method in order:
        lines.append(
            f"| {method} | {' | '.join(_cells(method, results, landscapes, moment, ranks.get(method), len(full)))} |"
        )
    return lines


def _cells(
    method: str,
    results: dict[str, dict[tuple[str, int], dict[str, Any]]],
    landscapes: Sequence[str],
    moment: int,
    ranks: list[float] | None,
    full: int,
) -> list[str]:
    runs = results[method]
    by = {name: [at(r, moment) for (which, _), r in runs.items() if which == name] for name in landscapes}
    pooled = "/".join(f"{np.median([at(r, m) for r in runs.values()]):.3f}" for m in MOMENTS)
    kept = [[r["regret"][r["kept"][i]] for r in runs.values() if len(r["kept"]) > i] for i in range(len(MOMENTS))]
    soon = [
        [reached(runs[key], at(r, 100)) for key, r in results.get(reference, {}).items() if key in runs]
        for reference in REFERENCES
    ]
    return [
        *(spread(values) if values else "–" for values in by.values()),
        pooled if len(runs) == full else f"{pooled} ({len(runs)} of {full} runs)",
        "/".join(f"{np.median(values):.3f}" for values in kept) if all(kept) else "–",
        f"{np.mean(ranks):.1f}" if ranks else "–",
        *(f"{np.median(trials):g}".replace("inf", "> 100") if trials else "–" for trials in soon),
        f"{np.mean([np.mean(r['cpu']) for r in runs.values()]):.2f}",
        f"{np.mean([r['edge'] for r in runs.values()]):.0%}",
    ]


def plot(cache: Path, landscapes: Sequence[str], methods: Sequence[str], path: Path) -> None:
    """Median regret of the kept point against trials, a panel per landscape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = found(cache, landscapes)
    figure = Figure(figsize=(3.0 * len(landscapes), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(landscapes), squeeze=False)[0]
    for panel, landscape in zip(panels, landscapes, strict=True):
        for method in methods or sorted(results):
            runs = [chosen(r) for (which, _), r in results.get(method, {}).items() if which == landscape]
            if runs:
                panel.plot(np.arange(1, TRIALS + 1), np.median(runs, axis=0), label=method, linewidth=1.2)
        panel.axvline(DESIGN, color="0.8", linewidth=0.8, zorder=0)
        panel.set(title=landscape, xlabel="trials", xlim=(1, TRIALS), ylim=(0, 1))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("median regret")
    panels[-1].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=80)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "report"])
    parser.add_argument("methods", nargs="*", help="names of conf/optimiser, perhaps with options: bayes:kappa=2")
    parser.add_argument("--landscapes", nargs="+", choices=[*STANDARD, *MERGES], default=[*STANDARD, *MERGES])
    parser.add_argument("--instances", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first instance; tune on others than 0-")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "search-benchmark")
    options = parser.parse_args()
    standard = [name for name in options.landscapes if name in STANDARD]
    merges = [name for name in options.landscapes if name in MERGES]
    if options.what == "run":
        jobs = [
            (options.cache, method, landscape, number)
            for number in range(options.first, options.first + options.instances)
            for landscape in options.landscapes
            for method in options.methods
        ]
        with ProcessPoolExecutor(options.processes) as pool:
            for job, result in zip(jobs, pool.map(cached, *zip(*jobs, strict=True)), strict=True):
                print(*job[1:], " ".join(f"{at(result, moment):.3f}" for moment in MOMENTS), flush=True)
    tables: list[str] = []
    for title, names in (("standard", standard), ("merges", merges)):
        if options.what == "report" and names:
            plot(options.cache, names, options.methods, ROOT / "docs" / f"optimisers-{title}.png")
        for moment in MOMENTS if names else ():
            tables += [f"## {title}, after {moment} trials", "", *table(options.cache, names, moment), ""]
    if options.what == "table":
        print(*tables, sep="\n")
    elif options.what == "report":
        (ROOT / "docs" / "optimisers.md").write_text("\n".join([REPORT, *tables]))


if __name__ == "__main__":
    main()
