"""Does it pay to give a merge up before all its pictures are drawn? True regret at an equal number of pictures.

    python benchmarks/racing.py --cache /tmp/racing        # some minutes a landscape; goes on where it stopped
    python benchmarks/racing.py --cache /tmp/racing report # benchmarks/results/racing.md

Three ways to spend 400 pictures on the landscapes of `search.py`, all with ``optimiser=structured``: ``whole`` draws
all eight pictures of every merge; ``raced`` is ``pruning.test=wilcoxon pruning.p=0.1`` with batches of two pictures;
``half`` draws four pictures, of the same prompts, and so twice as many merges. What counts is the regret of the merge
that is predicted to be the best, which is what a run draws last: 0 the optimum, 1 the median random merge.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from landscapes import PAYLOADS, SEEDS, Instance, blocks, instance
from scipy.stats import wilcoxon
from search import LANDSCAPES, predicted_regret, sampler_of, start

from bayes_merger.config import PruningConfig
from bayes_merger.run.pruning import Incumbent, clearly_worse, estimate
from bayes_merger.scoring.combination import Combination, Judge
from bayes_merger.scoring.scorer import TEN_POINTS, Score
from bayes_merger.search import build_space

BUDGET = 400
WAYS = ("whole", "raced", "half")
INSTANCES = range(720, 723)
"""Nothing was tuned on these."""

RESULTS = Path(__file__).parent / "results" / "racing.md"
COMBINATION = Combination({f"p{p}": 1.0 for p in range(PAYLOADS)}, {"synthetic": Judge(1.0, TEN_POINTS)})
SETTINGS = PruningConfig("wilcoxon", 0.1, 4)


def drawn(problem: Instance, point: Any, way: str, incumbent: Incumbent | None) -> tuple[list[dict[str, Any]], bool]:
    """A merge's pictures, and whether it was given up."""
    pictures = problem.pictures(point)
    if way == "half":
        return [picture for picture in pictures if not picture["index"]], False
    if incumbent is None:
        return pictures, False
    order = np.random.default_rng([problem.number, 7]).permutation(len(pictures))
    for seen in range(2, len(pictures), 2):
        some = [pictures[place] for place in order[:seen]]
        if clearly_worse([Score(**one) for one in some], incumbent, COMBINATION, SETTINGS):
            return some, True
    return pictures, False


def run(way: str, problem: Instance) -> dict[str, Any]:
    """One study of so many pictures: the regret of its predicted merge, and how many merges it tried."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = build_space(blocks(problem.dimensions), {"alpha": (0.0, 1.0)})
    study = optuna.create_study(direction="maximize", sampler=sampler_of("structured", space, problem.number))
    rows = start(space, problem.number)
    for row in rows:
        study.enqueue_trial(row, user_attrs={"phase": "design"})
    best: Incumbent | None = None
    spent = given_up = 0
    while spent + PAYLOADS * SEEDS <= BUDGET:
        trial = study.ask(dict(space.distributions()))
        point = np.array([trial.params[name] for name in space.distributions()])
        racing = way == "raced" and trial.number >= len(rows)
        pictures, over = drawn(problem, point, way, best if racing else None)
        spent += len(pictures)
        scores = tuple(Score(**picture) for picture in pictures)
        trial.set_user_attr("scores", pictures)
        if over and best is not None:
            given_up += 1
            trial.set_user_attr("estimate", estimate(scores, best, COMBINATION))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(trial, float(np.mean([picture["value"] for picture in pictures])))
        if best is None or COMBINATION.value(scores) > COMBINATION.value(best.scores):
            best = Incumbent(trial.number, scores)
    regret = predicted_regret(study.trials, space, study, problem)
    return {"regret": regret, "trials": len(study.trials), "given up": given_up}


def report(cache: Path) -> str:
    """The table, and each way against ``whole`` in pairs."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(cache.glob("*.json"))}
    noises = sorted({name.split("_")[1] for name in found})
    lines = [
        "| noise | problems | way | merges tried | given up | mean regret | against whole, paired |",
        "|" + "---|" * 7,
    ]
    for noise in noises:
        problems = sorted({tuple(name.split("_", 3)[2:]) for name in found if name.split("_")[1] == noise})
        pairs = [p for p in problems if all("_".join([w, noise, *p]) in found for w in WAYS)]
        values = {w: [found["_".join([w, noise, *p])] for p in pairs] for w in WAYS}
        whole = np.array([one["regret"] for one in values["whole"]])
        for way in WAYS:
            own = np.array([one["regret"] for one in values[way]])
            gap = own - whole
            beside = (
                f"{gap.mean():+.3f} ± {gap.std(ddof=1) / np.sqrt(len(gap)):.3f}, p {wilcoxon(gap).pvalue:.2g}"
                if way != "whole"
                else ""
            )
            tried, left = (np.mean([one[key] for one in values[way]]) for key in ("trials", "given up"))
            lines.append(f"| {noise} | {len(pairs)} | {way} | {tried:.0f} | {left:.0f} | {own.mean():.3f} | {beside} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.05, 0.15])
    parser.add_argument("--instances", type=int, nargs="+", default=list(INSTANCES))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.what == "report":
        head = "\n".join((__doc__ or "").split("\n\n")[:1] + (__doc__ or "").split("\n\n")[2:])
        RESULTS.write_text(f"# Giving merges up early\n\n{head.strip()}\n\n{report(options.cache)}\n", encoding="utf-8")
        return
    for number in options.instances:
        for noise in options.noise:
            for landscape in LANDSCAPES:
                for way in WAYS:
                    path = options.cache / f"{way}_{noise}_{landscape}_{number}.json"
                    if not path.exists():
                        partial = path.with_suffix(".partial")
                        partial.write_text(json.dumps(run(way, instance(landscape, number, noise=noise))))
                        partial.replace(path)
            print(number, noise, flush=True)


if __name__ == "__main__":
    main()
