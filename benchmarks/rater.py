"""How many ratings the model of the rater saves, and at what loss: a simulated person rates real merges of the demo.

    python benchmarks/rater.py draw --cache FOLDER        # the pictures of 120 merges, once; a run goes on
    python benchmarks/rater.py report --cache FOLDER      # benchmarks/results/rater.md

A study chooses among the merges that were drawn: ten to begin with, then the one with the greatest expected improvement
under a Gaussian process on the merges' weights, until there are forty. The person's opinion of a picture is three
quarters what the demo's own judges say, one quarter how sharp it is, on a scale with mean 5 and standard deviation 2;
each rating adds noise and is rounded to half points. With `scoring.assist`, pictures of which the model of the rater is
sure are not asked. What counts at the end is the opinion, without noise, of the merge with the best posterior mean.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bayes_merger.scoring.rater.model import Array, cross_validate, fit
from bayes_merger.scoring.rater.scorer import AUDITED, EXPLAINED, FEWEST

RESULTS = Path(__file__).parent / "results" / "rater.md"
REPORT = """# What the model of the rater saves

Written by `python benchmarks/rater.py report`: {seeds} simulated studies of {trials} trials a row, which choose among
{merges} real merges of the demo, {pictures} pictures each; the best of them is worth {best:.2f}. The model sees the
pictures through the demo's own tiny CLIP, which the demo's judges see through as well; a person's taste is further
away. Quality is the simulated person's opinion, without noise, of the merge that is handed over, with the
standard error over the studies; differences are paired.
"""


def draw(cache: Path, merges: int) -> None:
    """Draw the pictures of so many merges, and keep what the simulation needs of them."""
    from bayes_merger import compose
    from bayes_merger.imaging.payload import resolve
    from bayes_merger.run.evaluator import PipelineEvaluator
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.idle import without_idle
    from bayes_merger.run.progress import StopSignal
    from bayes_merger.scoring.formulas import sharpness
    from bayes_merger.search.study.study import design
    from bayes_merger.setups import make_setup
    from bayes_merger.testing.progress import RecordingReporter

    settings = compose.compose_run(["experiment=demo"])
    setup = without_idle(make_setup(compose.validate(settings), settings, RunFolder(cache / "unused")))
    single = [replace(payload, batch_size=1, seeds=(), prompts=(), negative_prompts=()) for payload in setup.payloads]
    setup = replace(setup, payloads=resolve(single, 0, None))
    rows = design(setup.space, merges, 0, kind="blocks")
    silent = RecordingReporter()
    evaluator = PipelineEvaluator.load(setup, silent, StopSignal(silent))
    tower = setup.scorers["demo_clip"].tower  # type: ignore[attr-defined]
    cache.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        path = cache / f"{number:04d}.npz"
        if path.exists():
            continue
        weights = setup.space.assemble(row)
        evaluator.load_weights(weights)
        images = evaluator.draw(setup.payloads)
        points = setup.combination.picture_points(evaluator.score(weights, images, ()))
        np.savez(
            path.with_suffix(".tmp.npz"),
            row=np.array([row[parameter.name] for parameter in setup.space.parameters]),
            embeddings=tower.embed_images([image.image for image in images]).numpy(),
            points=np.array([points[image.payload, image.index] for image in images]),
            sharpness=np.array([sharpness(image.image) for image in images]),
        )
        path.with_suffix(".tmp.npz").replace(path)
        print(f"{number + 1} of {len(rows)} merges", flush=True)


@dataclass(frozen=True)
class Pool:
    """The merges that a simulated study may choose: weights, embeddings of their pictures, and the true opinion."""

    rows: Array
    embeddings: Array
    opinions: Array

    @classmethod
    def load(cls, cache: Path) -> Pool:
        """From what was drawn."""
        found = [np.load(path) for path in sorted(cache.glob("[0-9]*.npz"))]
        points, sharp = (_standard(np.array([one[key] for one in found])) for key in ("points", "sharpness"))
        opinions = np.clip(5 + 2 * _standard(0.75 * points + 0.25 * sharp), 0, 10)
        rows, embeddings = (np.array([one[key] for one in found], dtype=float) for key in ("row", "embeddings"))
        return cls(rows, embeddings, opinions)


def _standard(values: Array) -> Array:
    return np.asarray((values - values.mean()) / values.std())


@dataclass(frozen=True)
class Outcome:
    """Of one simulated study, after each trial: the ratings asked so far, and what it would hand over is worth."""

    asked: list[int]
    quality: list[float]
    error: float


def simulate(pool: Pool, noise: float, seed: int, trials: int, *, assist: bool) -> Outcome:
    """One study; the same seed rates the same picture alike with and without assistance."""
    count = len(pool.opinions)
    rng = np.random.default_rng(seed)
    given = np.clip(np.round(2 * (pool.opinions + noise * rng.normal(size=pool.opinions.shape))) / 2, 0, 10)
    audited = rng.random(pool.opinions.shape) < 1 / AUDITED
    order, scores = list(rng.permutation(count)[:10]), given.copy()
    by_person = np.zeros_like(given, dtype=bool)
    asked, quality, gaps = [], [], []
    for number in range(trials):
        if number >= 10:
            order.append(_next(pool.rows, order, scores[order].mean(axis=1)))
        merge = order[number]
        sure = _sure(pool, order[:number], given, by_person, merge) & ~audited[merge] if assist else None
        if sure is not None and sure.any():
            known = by_person[order[:number]]
            model = fit(pool.embeddings[order[:number]][known], given[order[:number]][known])
            scores[merge, sure] = model.predict(pool.embeddings[merge, sure])[0]
            gaps += list(scores[merge, sure] - pool.opinions[merge, sure])
        by_person[merge] = True if sure is None else ~sure
        asked.append(int(by_person.sum()))
        mean = fit(pool.rows[order], scores[order].mean(axis=1)).predict(pool.rows[order])[0] if number else [0.0]
        quality.append(float(pool.opinions[order[int(np.argmax(mean))]].mean()))
    return Outcome(asked, quality, float(np.sqrt(np.mean(np.square(gaps)))) if gaps else float("nan"))


def remembered(pool: Pool, cache: Path, noise: float, seed: int, trials: int, *, assist: bool) -> Outcome:
    """The outcome of one simulated study, simulated once."""
    path = cache / f"outcome-{len(pool.rows)}-{trials}-{noise}-{seed}-{assist}.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(simulate(pool, noise, seed, trials, assist=assist))))
    return Outcome(**json.loads(path.read_text()))


def _next(rows: Array, order: Sequence[int], values: Array) -> int:
    """The untried merge of the greatest expected improvement on the best posterior mean."""
    model = fit(rows[list(order)], values)
    left = [merge for merge in range(len(rows)) if merge not in order]
    mean, sd = model.predict(rows[left])
    best = model.predict(rows[list(order)])[0].max()
    z = (mean - best) / np.maximum(sd, 1e-9)
    return left[int(np.argmax((mean - best) * norm.cdf(z) + sd * norm.pdf(z)))]


def _sure(pool: Pool, before: Sequence[int], given: Array, by_person: Array, merge: int) -> NDArray[np.bool_]:
    """As `RaterScorer` decides it."""
    known = by_person[list(before)]
    embeddings, ratings = pool.embeddings[list(before)][known], given[list(before)][known]
    groups = [str(merge) for merge, row in zip(before, known, strict=True) for _ in range(int(row.sum()))]
    check = cross_validate(embeddings, ratings, groups) if groups else None
    if check is None or check.ratings < FEWEST or check.explained < EXPLAINED:
        return np.zeros(given.shape[1], dtype=bool)
    model = fit(embeddings, ratings)
    return np.asarray(model.predict(pool.embeddings[merge])[1] < model.noise)


def report(cache: Path, seeds: int, trials: int) -> str:
    """The table."""
    pool = Pool.load(cache)
    merges, pictures = pool.opinions.shape
    best = float(pool.opinions.mean(axis=1).max())
    lines = [
        REPORT.format(merges=merges, pictures=pictures, seeds=seeds, trials=trials, best=best),
        "| noise of a rating | asked of all | ratings, all asked | ratings, assisted | quality, all asked | difference "
        "assisted | difference, all asked but stopped at as many ratings | error of the answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for noise in (0.5, 1.0, 2.0):
        whole, helped = (
            [remembered(pool, cache, noise, seed, trials, assist=assist) for seed in range(seeds)]
            for assist in (False, True)
        )
        ratings = np.array([one.asked[-1] for one in helped])
        early = [one.quality[min(trials, -(-int(n) // pictures)) - 1] for one, n in zip(whole, ratings, strict=True)]
        end = np.array([one.quality[-1] for one in whole])
        errors = [one.error for one in helped if np.isfinite(one.error)]
        lines.append(
            f"| {noise} | {ratings.mean() / (trials * pictures):.0%} | {trials * pictures} | {ratings.mean():.0f} | "
            f"{_with_error(end)} | {_with_error(np.array([one.quality[-1] for one in helped]) - end, '+')} | "
            f"{_with_error(np.array(early) - end, '+')} | {f'{np.mean(errors):.2f}' if errors else '–'} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def _with_error(values: Array, sign: str = "") -> str:
    return f"{values.mean():{sign}.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "report"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--merges", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    if options.what == "draw":
        draw(options.cache, options.merges)
    else:
        RESULTS.write_text(report(options.cache, options.seeds, options.trials), encoding="utf-8")


if __name__ == "__main__":
    main()
