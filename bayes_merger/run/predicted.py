"""The merge that a study's scores predict to be the best: the last trial of a search, and what is offered untried.

The best trial is only the best of the points that happened to be tried. So a search ends, when its budget is used up or
a stopping rule has ended it, with a trial where the most is expected. It is a trial like all others (queued, drawn,
killed, resumed, shown, merged, forked), but in that no optimiser has suggested it, and that it takes part in the final
round whatever it scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.record import complete_trials, recipe_with
from bayes_merger.search.space.cube import to_values
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import PHASE, PREDICTED, history_of, is_interrupted
from bayes_merger.search.study.lock import study_lock
from bayes_merger.search.study.queue import DESIGN, WORKER, waiting_trial
from bayes_merger.search.study.workers import SPENT

ALIKE = 0.01
"""Merges of which no parameter differs by more of its range draw all but the same pictures."""


@dataclass(frozen=True)
class Prediction:
    """What is expected of the merge of which the most is expected.

    Attributes:
        values: of each parameter.
        mean: posterior mean of its score without noise, in points.
        sd: posterior standard deviation of that.
        tried: whether a trial has been there, or all but there.
    """

    values: Mapping[str, float]
    mean: float
    sd: float
    tried: bool

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.sd:.3f} points"


def prediction_of(study: optuna.study.Study) -> Prediction | None:
    """The prediction of all of a study's scores; None of too few of them, or where there are several objectives."""
    from bayes_merger.search.optimisers.base import observations_of  # scipy, which takes its time
    from bayes_merger.search.predicted import predicted_point

    if len(study.directions) > 1:
        return None
    distributions = SearchSpace.from_json(study.user_attrs[DESIGN]["space"]).distributions()
    observations = observations_of(history_of(study), distributions, study)
    found = predicted_point(observations, int(study.user_attrs.get(CONFIG, {}).get("seed") or 0))
    if found is None:
        return None
    tried = bool((np.abs(observations.points - found.point).max(axis=1) < ALIKE).any())
    return Prediction(to_values(found.point, distributions), found.mean, found.sd, tried)


def predicted_recipe(study: optuna.study.Study) -> MergeRecipe:
    """The recipe of the merge that is predicted to be the best; it says so.

    Raises:
        ConfigError: there is no prediction.
    """
    found = prediction_of(study)
    if found is None:
        why = "has several objectives" if len(study.directions) > 1 else "has too few scores"
        raise ConfigError(f"--predicted: study '{study.study_name}' {why} for a prediction; write a trial with --trial")
    weights = SearchSpace.from_json(study.user_attrs[DESIGN]["space"]).assemble(found.values)
    count = len(complete_trials(study))
    note = f"predicted by study {study.study_name} from {count} trials to get {found}, and not drawn by it"
    return recipe_with(study, weights, "" if found.tried else note)


def queue_prediction(study: optuna.study.Study, total: int, *, over: bool) -> Prediction | None:
    """Queue the prediction as the last trial of a search, if it is due; the same whichever worker does it.

    Args:
        study: shared with other workers.
        total: how many trials the search is to have, this one among them.
        over: whether a stopping rule has ended it before.

    Returns:
        What was queued; None if it was not due, or nothing untried is predicted.
    """
    if not _is_due(study.get_trials(deepcopy=False), total, over):
        return None
    with study_lock(study):
        found = prediction_of(study) if _is_due(study.get_trials(deepcopy=False), total, over) else None
        if found is None or found.tried:
            return None
        distributions = SearchSpace.from_json(study.user_attrs[DESIGN]["space"]).distributions()
        study.add_trial(waiting_trial(found.values, distributions, {PHASE: PREDICTED}))
    return found


def last_prediction(study: optuna.study.Study) -> FrozenTrial | None:
    """The newest trial that was predicted to be the best and has a score."""
    return next((t for t in reversed(complete_trials(study)) if t.user_attrs.get(PHASE) == PREDICTED), None)


def waits(study: optuna.study.Study) -> int:
    """How many trials there will be with a prediction that waits; 0 if none does."""
    trials = _in_play(study.get_trials(deepcopy=False))
    waiting = any(t.state == TrialState.WAITING and t.user_attrs.get(PHASE) == PREDICTED for t in trials)
    return len(trials) if waiting else 0


def _is_due(trials: Sequence[FrozenTrial], total: int, over: bool) -> bool:
    """Whether all but the last trial are there, and the newest of the search is no prediction already."""
    chosen = [t for t in trials if not is_interrupted(t) and t.user_attrs.get(PHASE, "search") != "design"]
    if chosen and chosen[-1].user_attrs.get(PHASE) == PREDICTED:
        return False
    there = _in_play(trials)
    if over:  # the others may still draw; the last of them sees to it
        return all(trial.state in SPENT for trial in there)
    return len(there) == total - 1 and all(trial.state != TrialState.WAITING for trial in there)


def _in_play(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that use up the budget: those that are done, run under a worker, or wait."""
    return [
        trial
        for trial in trials
        if trial.state in (*SPENT, TrialState.WAITING)
        or (trial.state == TrialState.RUNNING and WORKER in trial.user_attrs)
    ]
