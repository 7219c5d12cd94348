"""Optimisers side by side: true regret after so many trials, on landscapes whose optimum is known.

    python benchmarks/search.py run                                    # everything that the report shows, hours
    python benchmarks/search.py run structured bayes:kappa=2 --instances 700 701 --landscapes corner
    python benchmarks/search.py cost structured bayes                  # CPU seconds of one suggestion
    python benchmarks/search.py report                                 # docs/optimisers.md and its plots

A method is what ``conf/optimiser/NAME.yaml`` says, perhaps with options, and begins with the start design that
``conf/config.yaml`` says. ``NAME@COMMIT`` is the method of an earlier version, from a git worktree in the cache. On an
instance all methods have the same noise, a function of the point. A finished run is a JSON file in ``--cache`` and is
not run again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: two processes of one thread each beat one of two

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from landscapes import MERGES, STANDARD, Instance, blocks, instance

import bayes_merger
from bayes_merger.search import build_space
from bayes_merger.search.optimisers.base import observations_of
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import History
from bayes_merger.search.study.study import design
from bayes_merger.search.surrogates.posterior import study_posterior

ROOT = Path(__file__).parents[1]
CONF = Path(bayes_merger.__file__).parents[1] / "conf"
BEFORE = "structured@4a0c3b8"
"""The default until the version that this report is about."""

MOMENTS = (30, 60, 100)
INSTANCES = range(700, 710)
"""Nothing was tuned on these."""

LANDSCAPES = (*STANDARD, *MERGES)
OTHERS = ("bayes", "gp", "turbo", "cma", "tpe", "random")


@dataclass(frozen=True)
class Setting:
    """What a run is about; the default is that of most tables.

    Attributes:
        dimensions: number of weights.
        noise: standard deviation of a trial's score, where 1 lies between the optimum and the median random point.
        pending: trials that run at the same time.
        trials: budget.
    """

    dimensions: int = 26
    noise: float = 0.05
    pending: int = 1
    trials: int = 100

    @property
    def folder(self) -> str:
        """Its folder in the cache."""
        return "-".join(str(value) for value in asdict(self).values())


SHORT = Setting(trials=60)
NOISY = Setting(noise=0.15, trials=30)
SIZES = tuple(Setting(dimensions, trials=60) for dimensions in (8, 40, 120))
WORKERS = tuple(Setting(pending=pending) for pending in (4, 16))
PLAN: tuple[tuple[Setting, Sequence[str], Sequence[int]], ...] = (
    (Setting(), (BEFORE, "structured"), INSTANCES[:2]),
    (SHORT, (BEFORE, "structured"), INSTANCES[2:]),
    (NOISY, (BEFORE, "structured"), INSTANCES),
    (Setting(), (BEFORE, "structured"), INSTANCES),
    *((setting, ("structured",), INSTANCES[:4]) for setting in WORKERS),
    *((setting, (BEFORE, "structured"), INSTANCES[:3]) for setting in SIZES),
    (Setting(), OTHERS, INSTANCES[:4]),
)
"""Settings, methods and instances of the report, the most important first."""


def sampler_of(method: str, space: SearchSpace, seed: int) -> optuna.samplers.BaseSampler:
    """What ``run optimiser=METHOD`` would use; options after colons, as in ``bayes:kappa=2``."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    name, *options = method.partition("@")[0].split(":")
    with initialize_config_dir(str(CONF), version_base=None):
        overrides = ["+n_iters=80", f"+optimiser={name}", *(f"optimiser.{option}" for option in options)]
        factory = instantiate(compose(None, overrides=overrides).optimiser)
    made: optuna.samplers.BaseSampler = factory(space.distributions(), seed)
    return made


def start(space: SearchSpace, seed: int) -> list[dict[str, float]]:
    """The start design of a run."""
    settings = yaml.safe_load((CONF / "config.yaml").read_text())
    return design(space, settings["init_points"], seed, kind=settings["design"])


def run(method: str, problem: Instance, setting: Setting) -> dict[str, Any]:
    """One study: what every trial was worth, which would be kept, and what suggesting cost.

    Returns:
        ``regret`` and ``score`` per trial; after 30, 60 and 100 trials, ``kept``, the trial with the best posterior
        mean, and ``predicted``, the regret of the predicted point; ``cpu``: seconds per suggestion; ``nearest``: the
        least distance of a suggestion from an earlier trial, in its weight that differs most.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = build_space(blocks(problem.dimensions), {"alpha": (0.0, 1.0)})
    sampler = sampler_of(method, space, problem.number)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rows = start(space, problem.number)
    for row in rows:
        study.enqueue_trial(row, user_attrs={"phase": "design"})
    points: list[Any] = []
    scores: list[float] = []
    running: list[optuna.Trial] = []
    result: dict[str, Any] = {"kept": [], "predicted": [], "cpu": [], "nearest": 1.0}
    while len(scores) < setting.trials:
        if len(running) < setting.pending and len(points) < setting.trials:
            before = time.process_time()
            running.append(study.ask(dict(space.distributions())))
            point = np.array([running[-1].params[name] for name in space.distributions()])
            if len(points) >= len(rows):
                result["cpu"].append(round(time.process_time() - before, 4))
                result["nearest"] = min(result["nearest"], float(np.abs(np.array(points) - point).max(axis=1).min()))
            points.append(point)
            continue
        trial = running.pop(0)
        pictures = problem.pictures(points[trial.number])
        trial.set_user_attr("scores", pictures)
        scores.append(float(np.mean([picture["value"] for picture in pictures])))
        study.tell(trial, scores[-1])
        if len(scores) in MOMENTS:
            told = study.trials[: len(scores)]
            images = [{(p["payload"], p["index"]): p["value"] for p in t.user_attrs["scores"]} for t in told]
            best = study_posterior(told, scores, images).best
            result["kept"].append(best.trial if best else 0)
            result["predicted"].append(predicted_regret(told, space, study, problem))
    result["regret"] = [round(float(value), 5) for value in problem.regret(np.array(points))]
    result["score"] = [round(score, 5) for score in scores]
    return result


def predicted_regret(trials: list[Any], space: SearchSpace, study: optuna.Study, problem: Instance) -> float | None:
    """Regret of the point that the trials predict to be the best; None in versions that predict none."""
    if find_spec("bayes_merger.search.predicted") is None:
        return None
    from bayes_merger.search.predicted import predicted_point

    history = History(len(trials), len(trials), tuple(trials))
    found = predicted_point(observations_of(history, space.distributions(), study), problem.number)
    return None if found is None else round(float(problem.regret(found.point)[0]), 5)


def path_of(cache: Path, setting: Setting, method: str, landscape: str, number: int) -> Path:
    """Where the result of a run is kept."""
    return cache / setting.folder / method.replace(":", ",") / f"{landscape}-{number}.json"


def finish(cache: Path, setting: Setting, method: str, landscapes: Sequence[str], numbers: Sequence[int]) -> None:
    """Run what is not in the cache yet, in the version of the package that the method belongs to."""
    name, _, commit = method.partition("@")
    missing = [n for n in numbers if any(not path_of(cache, setting, method, x, n).is_file() for x in landscapes)]
    tree = cache / "trees" / commit
    if missing and commit and not CONF.is_relative_to(tree):
        check_out(tree)
        what = [option for pair in asdict(setting).items() for option in (f"--{pair[0]}", str(pair[1]))]
        command = [sys.executable, __file__, "run", method, "--cache", cache, *what, "--landscapes", *landscapes]
        env = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run([*map(str, command), "--instances", *map(str, missing)], env=env, check=True)
        return
    for number in missing:
        for landscape in landscapes:
            path = path_of(cache, setting, method, landscape, number)
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                problem = instance(landscape, number, setting.dimensions, setting.noise)
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(run(name, problem, setting)))
                partial.replace(path)
        print(method, setting.folder, number, flush=True)


def check_out(tree: Path) -> None:
    """An earlier version of the package, in a folder that is called like its commit."""
    if not tree.is_dir():
        subprocess.run(["git", "worktree", "add", "--detach", tree, tree.name], cwd=ROOT, check=True)


def costs(method: str, counts: Sequence[int]) -> Iterator[tuple[int, float]]:
    """CPU seconds of one suggestion after so many trials, the mean of four after a first one; without the storage."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = instance("boundary", INSTANCES[0])
    space = build_space(blocks(problem.dimensions), {"alpha": (0.0, 1.0)})
    rng = np.random.default_rng(0)
    for count in counts:
        study = optuna.create_study(direction="maximize", sampler=sampler_of(method, space, 0))
        for point in rng.random((count, problem.dimensions)):
            pictures = problem.pictures(point)
            study.add_trial(
                optuna.create_trial(
                    params=dict(zip(space.distributions(), point.tolist(), strict=True)),
                    distributions=dict(space.distributions()),
                    value=float(np.mean([picture["value"] for picture in pictures])),
                    user_attrs={"scores": pictures},
                )
            )
        took = []
        for _ in range(5):
            before = time.process_time()
            trial = study.ask(dict(space.distributions()))
            took.append(time.process_time() - before)
            study.tell(trial, 0.0)
        yield count, float(np.mean(took[1:]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "cost", "report"])
    parser.add_argument("methods", nargs="*", help="names of conf/optimiser, perhaps with options: bayes:kappa=2")
    parser.add_argument("--landscapes", nargs="+", choices=LANDSCAPES, default=LANDSCAPES)
    parser.add_argument("--instances", nargs="+", type=int, default=INSTANCES, help="tune on others than 700 to 709")
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--cache", type=lambda text: Path(text).resolve(), default=ROOT / "runs" / "search-benchmark")
    options = parser.parse_args()
    setting = Setting(options.dimensions, options.noise, options.pending, options.trials)
    if options.what == "run":
        given = [(setting, options.methods, options.instances)] if options.methods else PLAN
        for which, methods, numbers in given:
            for number in numbers:  # the methods in step: a plan cut short is still paired
                for method in methods:
                    finish(options.cache, which, method, options.landscapes, [number])
    elif options.what == "cost":
        for method in options.methods:
            path = options.cache / "costs" / f"{method}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(costs(method, (100, 1_000, 10_000)))))
            print(method, path.read_text())
    else:
        from search_report import write_report

        write_report(options.cache)


if __name__ == "__main__":
    main()
