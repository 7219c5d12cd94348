"""The course of a search as plain data: every trial's points, the best so far, the noise, the parents' lines."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from bayes_merger.run.attributes import CONFIG, WEIGHTS
from bayes_merger.run.idle import ANCHORS, anchor_of, space_of
from bayes_merger.run.record import chosen_trial, complete_trials, posterior_of, value_of
from bayes_merger.search.study.checked import answered_once, reads_once
from bayes_merger.search.study.history import PHASE


@dataclass(frozen=True)
class Convergence:
    """The course of a search.

    Attributes:
        points: trial number and points of each that has a score, in order of their numbers.
        best: trial number and points of each that was better than all before it.
        believed: trial number and posterior mean, the same way; empty where no process was fitted.
        design: the last trial of the start design; -1 where there is none.
        noise: standard deviation of the noise of one trial's points; 0 where it is unknown.
        parents: ``model A``, ``model B``, ``even mix`` -> points, of those that were tried.
        chosen: the number of the trial that is taken home; None before the first score.
    """

    points: tuple[tuple[int, float], ...]
    best: tuple[tuple[int, float], ...]
    believed: tuple[tuple[int, float], ...]
    design: int
    noise: float
    parents: dict[str, float]
    chosen: int | None


@reads_once
def convergence_of(study: optuna.study.Study) -> Convergence:
    """The course of a study's search."""
    trials, known = complete_trials(study), posterior_of(study)
    points = sorted((trial.number, value_of(trial)) for trial in trials)
    means = sorted((one.trial, one.mean) for one in known.each) if known.fitted else []
    return Convergence(
        tuple(points),
        _rises(points),
        _rises(means),
        max((trial.number for trial in trials if trial.user_attrs.get(PHASE) == "design"), default=-1),
        known.noise,
        {name: value_of(trial) for name, trial in anchors_of(study).items()},
        chosen_trial(study).number if trials else None,
    )


@answered_once
def anchors_of(study: optuna.study.Study) -> dict[str, FrozenTrial]:
    """Of a weighted sum, the first trials that are pure A, pure B and the even mix; idle weights do not matter."""
    method, idle = study.user_attrs.get(CONFIG, {}).get("method", ""), set(space_of(study).idle)
    found: dict[str, FrozenTrial] = {}
    for trial in complete_trials(study):
        if name := anchor_of(method, trial.user_attrs[WEIGHTS], idle):
            found.setdefault(name, trial)
        if len(found) == len(ANCHORS):  # among the first, mostly
            break
    return {name: found[name] for name in ANCHORS.values() if name in found}


def _rises(points: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []
    for number, value in points:
        if not found or value > found[-1][1]:
            found.append((number, value))
    return tuple(found)
