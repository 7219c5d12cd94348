"""Optimisers side by side on real merges: the demo's two specialists, drawn and judged.

    python benchmarks/search_demo.py structured --trials 60 --seeds 0 1 2
    python benchmarks/search_demo.py bayes_classic --trials 60 --seeds 0 1 2
    python benchmarks/search_demo.py structured@4a0c3b8 --trials 60 --kept observed     # of an earlier version
    python benchmarks/search_demo.py structured --trials 60 --pictures 2                # a quarter of the pictures
    python benchmarks/search_demo.py report      # benchmarks/results/search_demo.md

A seed decides the start design, the prompts' pictures and the sampler; all methods of a version share its design. They
search only weights that change something; those of an earlier version (``earlier.py``) search all. What a method hands
over is judged by 32 fresh pictures per payload, on seeds that no trial has used: the trial with the best observed
score, the one with the best posterior mean, and the predicted merge. What was drawn is kept in
``--cache``; a run goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import wilcoxon
from search import check_out

from bayes_merger import compose
from bayes_merger.imaging.payload import resolve
from bayes_merger.run.effect.narrowing import narrowed
from bayes_merger.run.evaluator import PipelineEvaluator, conclude
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import without_idle
from bayes_merger.run.progress import StopSignal
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.optimisers.base import observations_of
from bayes_merger.search.predicted import predicted_point
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.space.cube import to_values
from bayes_merger.search.study.history import History
from bayes_merger.search.study.study import design
from bayes_merger.search.surrogates.posterior import study_posterior
from bayes_merger.setups import make_setup
from bayes_merger.testing.progress import RecordingReporter

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "search_demo.md"
REPORT = """# Optimisers side by side on the demo models

Written by `python benchmarks/search_demo.py report`: real merges, drawn and judged. Every seed has its own start
design, prompts' seeds and sampler; the methods share the design. Points are the mean of 32 fresh pictures per payload
of what a method would hand over: the trial with the best observed score, that with the best posterior mean, or the
merge that is predicted to be the best, tried or not. In brackets those of each seed: 0 to 5, or 2 to 5 where there are
four.
"""
RIVALS = (("structured@4a0c3b8", 8, "observed 60"), ("structured@4a0c3b8", 2, "observed 60"))
"""What this version is compared with: the version before with twice the trials, on as many pictures each and on few."""
SPLITS = ((1, 120), (2, 60), (4, 30), (8, 15))
"""Pictures of each payload and trials: 960 pictures in all."""
FRESH = 32
MOMENTS = (15, 20, 30, 40, 60, 120)
HOW = ("observed", "posterior", "predicted")


class Demo:
    """The demo's merges of one seed, with what was drawn before remembered.

    Args:
        optimiser: a name of ``conf/optimiser``; with ``@COMMIT`` that of an earlier version.
        seed: of the run.
        cache: folder of what was drawn.
        more: further settings, its budget among them.
        fresh: pictures of each payload that judge what is handed over.
        pictures: of each payload in a trial; None: what the settings say.
    """

    def __init__(
        self,
        optimiser: str,
        seed: int,
        cache: Path,
        more: Sequence[str] = ("n_iters=80",),
        fresh: int = FRESH,
        pictures: int | None = None,
    ) -> None:
        name, _, commit = optimiser.partition("@")
        self._earlier = [name, str(seed)] if commit else []
        self._tree = cache / "trees" / commit
        name, *options = name.split(":")
        chosen = [f"optimiser={name}", *(f"optimiser.{option}" for option in options)]
        known = ["space.idle=keep"] if commit else []
        settings = compose.compose_run(["experiment=demo", f"seed={seed}", *chosen, *known, *more])
        setup = make_setup(compose.validate(settings), settings, RunFolder(cache / "unused"))
        self.setup = without_idle(narrowed(setup))
        self._counts = {"run": pictures, "fresh": fresh}
        self.space = self.setup.space
        own = self.setup.payloads if pictures is None else self._resolved(pictures, seed)
        self.payloads = {"run": own, "fresh": self._resolved(fresh, 7919 * 97 + seed)}
        self._evaluator: PipelineEvaluator | None = None
        self._cache = cache / f"seed-{seed}"
        self._cache.mkdir(parents=True, exist_ok=True)
        self._log = self._cache / f"{labelled(optimiser, pictures)}.json"

    def _resolved(self, pictures: int, seed: int) -> list[Any]:
        """The payloads with so many pictures each, of seeds that come from this one."""
        unseen = [
            replace(payload, seed=-1, seeds=(), prompts=(), negative_prompts=(), batch_size=pictures)
            for payload in self.setup.payloads
        ]
        return list(resolve(unseen, seed, None))

    def judged(self, values: Mapping[str, float], which: str = "run") -> dict[str, Any]:
        """Value and raw scores of a merge, on the run's pictures or on fresh ones."""
        count = self._counts[which]
        text = json.dumps([which, *([] if count is None else [count]), values], sort_keys=True)
        path = self._cache / f"{which}-{np.random.SeedSequence(list(text.encode())).generate_state(2, np.uint64)[0]:x}"
        if not path.is_file():
            if self._evaluator is None:
                silent = RecordingReporter()
                self._evaluator = PipelineEvaluator.load(self.setup, silent, StopSignal(silent))
            weights = self.space.assemble(values)
            self._evaluator.load_weights(weights)
            images = self._evaluator.draw(self.payloads[which])
            found = conclude(self.setup, self._evaluator.score(weights, images, ()))
            scores = [vars(score) for score in found.scores]
            path.write_text(json.dumps({"value": found.value, "scores": scores}))
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def study(self, trials: int) -> optuna.study.Study:
        """The study after so many trials."""
        config = self.setup.config
        sampler = make_sampler(self.setup.sampler, self.space.distributions(), config.seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        if self._earlier:
            self._search_as_before(study, trials)
            return study
        rows = design(self.space, config.init_points, config.seed, kind=config.design)
        for row in rows:
            study.enqueue_trial(row, user_attrs={"phase": "design"})
        known: list[dict[str, float]] = json.loads(self._log.read_text()) if self._log.is_file() else []
        for number in range(trials):
            if len(rows) <= number < len(known):
                study.enqueue_trial(known[number])
            self._try(study)
            self._log.write_text(json.dumps([*(trial.params for trial in study.trials), *known[number + 1 :]]))
        return study

    def _search_as_before(self, study: optuna.study.Study, trials: int) -> None:
        """Fill a study with what an earlier version suggests."""
        check_out(self._tree)
        command = [sys.executable, str(Path(__file__).with_name("earlier.py")), *self._earlier]
        env = {**os.environ, "PYTHONPATH": str(self._tree)}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=self._tree, env=env, stdin=pipe, stdout=pipe, text=True) as other:
            assert other.stdin
            assert other.stdout
            for _ in range(trials):
                study.enqueue_trial(json.loads(other.stdout.readline()))
                print(json.dumps(self._try(study)), file=other.stdin, flush=True)
            other.kill()

    def _try(self, study: optuna.study.Study) -> dict[str, Any]:
        """One trial, drawn and judged unless it was before."""
        trial = study.ask(dict(self.space.distributions()))
        result = self.judged(trial.params)
        trial.set_user_attr("scores", result["scores"])
        study.tell(trial, result["value"])
        print(f"seed {self.setup.config.seed} trial {trial.number} {result['value']:.3f}", flush=True)
        return result

    def points(self, result: dict[str, Any]) -> list[float]:
        """Of each picture that was judged; their mean is the merge's value."""
        return list(self._picture_points(result["scores"]).values())

    def _picture_points(self, scores: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
        return self.setup.combination.picture_points([Score(**score) for score in scores])

    def kept(self, study: optuna.study.Study, after: int) -> dict[str, Any]:
        """What would be handed over after so many trials: values by `observed` and by `posterior` mean."""
        trials = study.get_trials(deepcopy=False)[:after]
        pictures = [self._picture_points(trial.user_attrs["scores"]) for trial in trials]
        known = study_posterior(trials, [trial.values[0] for trial in trials], pictures)
        assert known.best is not None
        assert known.best_observed is not None
        space = self.space.distributions()
        past = History(len(trials), len(trials), tuple(trials))
        predicted = predicted_point(observations_of(past, space, study), self.setup.config.seed)
        assert predicted is not None
        found = {
            "observed": trials[known.best_observed.trial].params,
            "posterior": trials[known.best.trial].params,
            "predicted": to_values(predicted.point, space),
        }
        return {how: found[how] for how in HOW}


def labelled(method: str, pictures: int | None) -> str:
    """What results of a method are called."""
    return method if pictures is None else f"{method}, {pictures} pictures per payload"


OWN = labelled("structured", 8)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="a name of conf/optimiser, or report")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--moments", type=int, nargs="+", default=MOMENTS, help="after how many trials it is judged")
    parser.add_argument("--kept", nargs="+", choices=HOW, default=HOW, help="what is judged")
    parser.add_argument("--pictures", type=int, default=8, help="of each payload in a trial (default: 8, as the demo)")
    parser.add_argument("--cache", type=lambda text: Path(text).resolve(), default=ROOT / "runs" / "search-demo")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.method == "report":
        RESULTS.write_text("\n".join([REPORT, *table(options.cache), *against_rivals(options.cache),
                                      *splits(options.cache), ""]))  # fmt: skip
        print(RESULTS.read_text())
        return
    method = labelled(options.method, options.pictures)
    for seed in options.seeds:
        demo = Demo(options.method, seed, options.cache, pictures=options.pictures)
        study = demo.study(options.trials)
        path = _result(options.cache, method, seed)
        path.parent.mkdir(exist_ok=True)
        known = json.loads(path.read_text()) if path.is_file() else {}
        for moment in options.moments:
            if moment <= options.trials:
                kept = demo.kept(study, moment)
                for how in options.kept:
                    known[f"{how} {moment}"] = demo.points(demo.judged(kept[how], "fresh"))
        path.write_text(json.dumps(known))
        print(method, seed, {name: round(float(np.mean(own)), 3) for name, own in known.items()}, flush=True)


def table(cache: Path) -> list[str]:
    """Mean points on fresh seeds, as Markdown; of each seed in brackets."""
    results: dict[str, dict[int, dict[str, list[float]]]] = {}
    for path in sorted((cache / "results").glob("*.json")):
        method, _, seed = path.stem.rpartition("-")
        results.setdefault(method, {})[int(seed)] = json.loads(path.read_text())
    head = " | ".join(["method", "kept by", *(f"{moment} trials" for moment in MOMENTS)])
    lines = [f"| {head} |", f"|{'---|' * (len(MOMENTS) + 2)}"]
    for method, runs in results.items():
        for how in HOW:
            cells = [_cell({s: run[name] for s, run in runs.items() if name in run})
                     for name in (f"{how} {moment}" for moment in MOMENTS)]  # fmt: skip
            lines.append(f"| {method} | {how} | {' | '.join(cells)} |")
    return lines


def against_rivals(cache: Path) -> list[str]:
    """This version's best observed merges against those of others, seed by seed, as Markdown."""
    lines = [
        "",
        "This version by the best observed score, paired by seed, with the standard error; p is Wilcoxon's signed-rank",
        "test, two-sided, not corrected.",
        "",
        "| structured now | the other | now | the other | difference | p |",
        "|---|---|---|---|---|---|",
    ]
    for moment in ("observed 30", "observed 40"):
        for method, pictures, its in RIVALS:
            rival = labelled(method, pictures)
            files = [(_result(cache, OWN, seed), _result(cache, rival, seed)) for seed in range(6)]
            pairs = [(_points(own, moment), _points(other, its)) for own, other in files if other.is_file()]
            if len(pairs) < 2:
                continue
            now, then = np.array(pairs).T
            gaps = now - then
            each = " | ".join(f"{one.mean():.2f} (least {one.min():.2f})" for one in (now, then))
            error = np.std(gaps, ddof=1) / np.sqrt(len(gaps))
            found = f"{gaps.mean():+.2f} ± {error:.2f} | {wilcoxon(gaps).pvalue:.2f}"
            lines.append(f"| {moment} | {rival}, {its} | {each} | {found} |")
    return lines


def splits(cache: Path) -> list[str]:
    """What the same number of pictures gives, spent on few trials or on many, as Markdown; of each seed in brackets."""
    lines = [
        "",
        "The same 960 pictures, eight payloads: many trials of few, or few trials of many.",
        "",
        f"| pictures of each payload | trials | {' | '.join(HOW)} |",
        f"|{'---|' * (len(HOW) + 2)}",
    ]
    for pictures, trials in SPLITS:
        files = [_result(cache, labelled("structured", pictures), seed) for seed in range(6)]
        runs = {seed: json.loads(file.read_text()) for seed, file in enumerate(files) if file.is_file()}
        cells = [_cell({s: run[name] for s, run in runs.items() if name in run})
                 for name in (f"{how} {trials}" for how in HOW)]  # fmt: skip
        lines.append(f"| {pictures} | {trials} | {' | '.join(cells)} |")
    return lines


def _points(result: Path, name: str) -> float:
    return float(np.mean(json.loads(result.read_text())[name]))


def _result(cache: Path, method: str, seed: int) -> Path:
    return cache / "results" / f"{method}-{seed}.json"


def _cell(found: dict[int, list[float]]) -> str:
    """The mean, and each seed's."""
    means = [float(np.mean(points)) for points in found.values()]
    return f"{np.mean(means):.2f} [{', '.join(f'{mean:.2f}' for mean in means)}]" if means else "–"


if __name__ == "__main__":
    main()
