"""The queue: every trial waits in the study with all its values until one worker takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bayes_merger.errors import ConfigError, one_line
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import INTERRUPTED, ORIGIN, PHASE, REASON, origin
from bayes_merger.search.study.storage import backend, stored_trials

DESIGN = "design"
"""User attribute of a study: the start design and its space."""

RETRY_OF = "retry_of"
ROW = "row"

DEATHS = "deaths"
"""User attribute of a second attempt: how many processes have ended while they drew these values."""

TRIES = 3
"""A merge at which so many processes ended is not tried again."""

WORKER = "worker"
"""User attribute of a trial: who draws it."""


def ask(
    study: Study,
    space: SearchSpace,
    owner: Mapping[str, Any] | None = None,
    check_lock: Callable[[], None] = lambda: None,
    *,
    first: bool = False,
) -> Trial:
    """The next trial, running, with all its values: one that waits, or a new suggestion of the study's sampler.

    A waiting trial whose values do not fit the space (someone queued it by hand) is failed, with that reason. One at
    which all but the last tries ended the process comes after the others, and is not what a process begins with.

    Args:
        study: may be shared, but asked by one process at a time: see :func:`bayes_merger.search.study.lock.study_lock`.
        space: what is searched.
        owner: noted on the trial as its worker.
        check_lock: called before a suggestion is written; raises if another process has taken the study's lock.
        first: whether this process has drawn nothing yet.
    """
    distributions = space.distributions()
    while True:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for candidate in sorted(waiting, key=lambda t: (_is_dangerous(t), origin(t), t.number)):
            if first and _is_dangerous(candidate):
                break
            trial = take(study, candidate, space, distributions, owner)
            if trial is not None:
                return trial
        suggested = waiting_trial(suggestion(study, distributions), distributions, {PHASE: "search"})
        check_lock()
        study.add_trial(suggested)


def _is_dangerous(trial: FrozenTrial) -> bool:
    return int(trial.user_attrs.get(DEATHS, 0)) >= TRIES - 1


def queue_again(study: Study, trials: Iterable[FrozenTrial], *, died: bool = False) -> None:
    """Fail running trials without a living worker as interrupted; their values wait again, ahead of all others.

    Args:
        study: the study.
        trials: running.
        died: whether their processes ended over them; at the third time they have failed.
    """
    again = {t.user_attrs[RETRY_OF] for t in study.get_trials(deepcopy=False) if RETRY_OF in t.user_attrs}
    for trial in trials:
        # In this order: if a process dies in between, a trial is left running and the next process repairs it.
        deaths = int(trial.user_attrs.get(DEATHS, 0)) + died
        if trial.number not in again and deaths < TRIES:
            study.add_trial(retry(trial, deaths))
        live = Trial(study, trial._trial_id)
        ended = f"the process ended while it was drawn, {deaths} times (killed, out of memory or a crash)"
        live.set_user_attr(REASON, INTERRUPTED if deaths < TRIES else ended)
        study.tell(live, state=TrialState.FAIL)


def queue_design(study: Study) -> None:
    """Write the rows of the start design that are not yet trials."""
    stored = study.user_attrs[DESIGN]
    distributions = SearchSpace.from_json(stored["space"]).distributions()
    there = [t.user_attrs.get(ROW) for t in stored_trials(study)]
    for index, row in enumerate(stored["rows"]):
        if index not in there:
            study.add_trial(waiting_trial(row, distributions, {PHASE: "design", ROW: index}))


def waiting_trial(
    values: Mapping[str, Any], distributions: Mapping[str, FloatDistribution], attributes: Mapping[str, Any]
) -> FrozenTrial:
    """A trial to be added to a study: it waits with these values."""
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=dict(values),
        distributions={name: distributions[name] for name in values},
        user_attrs=dict(attributes),
    )


def retry(trial: FrozenTrial, deaths: int = 0) -> FrozenTrial:
    """The same values again. What the dead process noted on the trial stays there: half a record is not used."""
    kept = {key: trial.user_attrs[key] for key in (PHASE, ROW) if key in trial.user_attrs}
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=kept | {ORIGIN: origin(trial), RETRY_OF: trial.number} | ({DEATHS: deaths} if deaths else {}),
        system_attrs={key: value for key, value in trial.system_attrs.items() if key == "fixed_params"},
    )


def suggestion(study: Study, distributions: Mapping[str, FloatDistribution]) -> dict[str, Any]:
    """What the sampler suggests for a trial that is not stored yet."""
    number = len(stored_trials(study))
    unstored = FrozenTrial(
        number=number,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
    relative = study.sampler.infer_relative_search_space(study, unstored)
    values = study.sampler.sample_relative(study, unstored, relative)
    return {
        name: values[name] if name in values else study.sampler.sample_independent(study, unstored, name, distribution)
        for name, distribution in distributions.items()
    }


def take(
    study: Study,
    waiting: FrozenTrial,
    space: SearchSpace,
    distributions: Mapping[str, FloatDistribution],
    owner: Mapping[str, Any] | None,
) -> Trial | None:
    """The waiting trial, running; None if another took it, or its values do not fit."""
    try:
        if owner is not None:  # before it runs: no trial may run without a known worker
            study._storage.set_trial_user_attr(waiting._trial_id, WORKER, dict(owner))
            backend(study).record_heartbeat(waiting._trial_id)
        if not study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
            return None
    except UpdateFinishedTrialError:
        return None  # taken and finished since we looked
    trial = Trial(study, waiting._trial_id)
    fixed = waiting.system_attrs.get("fixed_params")
    queued = {**(fixed if isinstance(fixed, dict) else {}), **waiting.params}
    try:
        # What a person left open is the sampler's to choose; after a kill the choice is the same.
        missing = {p.name: p.low for p in space.parameters if p.name not in queued}
        space.check({**missing, **queued})
    except ConfigError as error:
        trial.set_user_attr(REASON, one_line(error))
        study.tell(trial, state=TrialState.FAIL)
        return None
    for name, distribution in distributions.items():
        if name not in waiting.params:
            trial._suggest(name, distribution)
    return trial
