"""The merge that a study's scores predict to be the best: the last trial of a search, and what is offered untried.

The best trial is only the best of the points that happened to be tried. So a search ends, when its budget is used up or
a stopping rule has ended it, with a trial where the most is expected. It is a trial like all others (queued, drawn,
killed, resumed, shown, merged, forked), but in that no optimiser has suggested it, and that it takes part in the final
round whatever it scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.record import complete_trials, recipe_with
from bayes_merger.search.space.cube import to_values
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.entry import SPENT
from bayes_merger.search.study.history import DESIGN, PHASE, PREDICTED, WORKER, history_of, is_interrupted

if TYPE_CHECKING:
    from bayes_merger.search.study.queue import LastSuggestion

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


def last_suggestion(study: optuna.study.Study, note: Callable[[str], None]) -> LastSuggestion:
    """What makes the last suggestion of a search, the same whichever process does it: the prediction, if it is due.

    Args:
        study: shared with other workers.
        note: told what is expected.
    """
    from bayes_merger.search.study.queue import waiting_trial  # SQLAlchemy, which those who look do not need

    def suggested(total: int | None) -> FrozenTrial | None:
        found = prediction_of(study) if _is_due(study.get_trials(deepcopy=False), total) else None
        if found is None or found.tried:
            return None
        note(f"the last trial is the merge of which the model expects the most: {found}")
        distributions = SearchSpace.from_json(study.user_attrs[DESIGN]["space"]).distributions()
        return waiting_trial(found.values, distributions, {PHASE: PREDICTED})

    return suggested


def queue_prediction(study: optuna.study.Study, note: Callable[[str], None]) -> None:
    """Queue the prediction after a stopping rule has ended the search; the last worker that draws sees to it."""
    from bayes_merger.search.study.lock import proposer_lock
    from bayes_merger.search.study.transaction import transaction

    with proposer_lock(study) as check_lock:
        if check_lock and (last := last_suggestion(study, note)(None)):
            check_lock()
            with transaction(study) as queue:
                queue.add([last])


def last_prediction(study: optuna.study.Study) -> FrozenTrial | None:
    """The newest trial that was predicted to be the best and has a score."""
    return next((t for t in reversed(complete_trials(study)) if t.user_attrs.get(PHASE) == PREDICTED), None)


def waits(study: optuna.study.Study) -> int:
    """How many trials there will be once a prediction that waits is drawn; 0 if none waits."""
    trials = study.get_trials(deepcopy=False)
    waiting = any(t.state == TrialState.WAITING and t.user_attrs.get(PHASE) == PREDICTED for t in trials)
    return sum(map(_is_in_play, trials)) + 1 if waiting else 0


def _is_due(trials: Sequence[FrozenTrial], total: int | None) -> bool:
    """Whether the next trial is the last, and the newest of the search is no prediction already.

    Args:
        trials: of a study.
        total: how many there are to be; None: a stopping rule has ended the search, and what others have suggested and
            nobody has drawn does not count.
    """
    chosen = [t for t in trials if not is_interrupted(t) and t.user_attrs.get(PHASE, "search") != "design"]
    if chosen and chosen[-1].user_attrs.get(PHASE) == PREDICTED:
        return False
    there = [trial for trial in trials if _is_in_play(trial)]
    if total is None:  # the others may still draw; the last of them sees to it
        return all(trial.state in SPENT for trial in there)
    return len(there) == total - 1 and all(trial.state != TrialState.WAITING for trial in trials)


def _is_in_play(trial: FrozenTrial) -> bool:
    """Whether a trial uses up the budget: it is done, or runs under a worker."""
    return trial.state in SPENT or (trial.state == TrialState.RUNNING and WORKER in trial.user_attrs)
