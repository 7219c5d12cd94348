"""After the last trial: the winner is chosen, and compared with the models it came from, on fresh seeds.

The best score seen is partly luck, so it flatters the trial that has it. The best few are therefore drawn again on
seeds that no trial has used, the winner is the best of those, and a second set of fresh seeds, which nobody chose
by, gives the closing table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna

from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.run.bench import Bench, Evaluation, Weights
from bayes_merger.run.parts import Parts
from bayes_merger.run.record import Final, Row, complete_trials
from bayes_merger.run.watcher import Stop, Watcher
from bayes_merger.scoring.scorer import combine


def fresh_payloads(parts: Parts, part: int) -> tuple[Payload, ...]:
    """The run's payloads with ``final.images`` new seeds each; ``part`` 0 and 1 never share a seed."""
    count = parts.config.final.images
    fresh = [
        replace(payload, seed=-1, seeds=(), prompts=(), negative_prompts=(), batch_size=count)
        for payload in parts.payloads
    ]
    wildcards = Path(parts.config.wildcards) if parts.config.wildcards else None
    return resolve(fresh, parts.config.seed + 7919 * (part + 1), wildcards)


def decide(parts: Parts, study: optuna.study.Study, bench: Bench, watcher: Watcher, stop: Stop) -> Final:
    """Choose the winner and compare it with A, B and the even mix.

    Raises:
        Interrupted: somebody asked to stop.
    """
    trials = sorted(complete_trials(study), key=lambda trial: (-(trial.value or 0.0), trial.number))
    asks_a_person = any(getattr(scorer, "interactive", False) for scorer in parts.scorers.values())
    if parts.config.final.images == 0 or asks_a_person:
        return Final(trials[0].number, 0, {}, ())
    rescored: dict[int, float] = {}
    first = fresh_payloads(parts, 0)
    for trial in trials[: parts.config.final.rescore]:
        stop.check()
        watcher.step(f"drawing trial {trial.number} on fresh seeds")
        evaluation = _try(bench, trial.user_attrs["weights"], None, first)
        if evaluation:
            rescored[trial.number] = evaluation.value
    winner = max(rescored, key=lambda number: rescored[number]) if rescored else trials[0].number
    weights = next(trial.user_attrs["weights"] for trial in trials if trial.number == winner)
    rows = closing_table(parts, bench, weights, watcher, stop)
    return Final(winner, len(parts.payloads) * parts.config.final.images, rescored, rows)


def closing_table(parts: Parts, bench: Bench, winner: Weights, watcher: Watcher, stop: Stop) -> tuple[Row, ...]:
    """The winner, A, B and the even mix on fresh seeds that nothing was chosen by."""
    fresh = fresh_payloads(parts, 1)
    blocks = parts.checkpoints["a"].architecture.blocks
    contenders: list[tuple[str, Weights, str | None]] = [("best merge", winner, None)]
    for name, alpha in (("model A", 0.0), ("model B", 1.0), ("even mix", 0.5)):
        contenders.append((name, {"alpha": dict.fromkeys(blocks, alpha)}, "weighted_sum"))
    rows: list[Row] = []
    reference: list[float] = []
    for name, weights, method in contenders:
        stop.check()
        watcher.step(f"drawing {name} on fresh seeds")
        evaluation = _try(bench, weights, method, fresh)
        if evaluation is None:
            continue
        points = points_per_image(parts, fresh, evaluation)
        reference = reference or points
        gaps = [best - own for best, own in zip(reference, points, strict=True)]
        rows.append(Row(name, evaluation.value, _error(points), sum(gaps) / len(gaps), _error(gaps)))
    return tuple(rows)


def points_per_image(parts: Parts, payloads: Sequence[Payload], evaluation: Evaluation) -> list[float]:
    """Points of each picture, scorers combined, times its payload's share (so that their mean is the value)."""
    importance = {payload.name: payload.importance for payload in payloads}
    scorers = {name: (scorer.importance, scorer.scale) for name, scorer in parts.scorers.items()}
    images = list(dict.fromkeys((score.payload, score.index) for score in evaluation.scores))
    total = sum(importance[name] for name, _ in images)
    points = []
    for name, index in images:
        own = [score for score in evaluation.scores if (score.payload, score.index) == (name, index)]
        points.append(combine(own, {name: 1.0}, scorers) * importance[name] * len(images) / total)
    return points


def _try(bench: Bench, weights: Weights, method: str | None, payloads: Sequence[Payload]) -> Evaluation | None:
    try:
        bench.put(weights, method)
        return bench.judge(weights, payloads, bench.draw(payloads), ())
    except TrialFailed:
        return None


def _error(values: Sequence[float]) -> float | None:
    """Standard error of the mean."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
