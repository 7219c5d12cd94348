"""The queue: every trial waits in the study with all its values until one worker takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bayes_merger.errors import ConfigError, one_line
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.checked import stored_trials
from bayes_merger.search.study.entry import TRIES, Entry, Transaction
from bayes_merger.search.study.history import (
    DEATHS,
    INTERRUPTED,
    ORIGIN,
    PHASE,
    REASON,
    RETRY_OF,
    ROW,
    StudyAhead,
    origin,
)
from bayes_merger.search.study.transaction import transaction

LastSuggestion = Callable[[int | None], FrozenTrial | None]
"""From the budget of trials to the trial that ends the search, if the next is to be the last; else None, and the
sampler suggests it. None for a budget: a stopping rule has ended the search."""


def ask(study: Study, space: SearchSpace) -> Trial:
    """The next trial, running, with all its values: one that waits, or a new suggestion of the study's sampler.

    For a process that is alone with the study; see :class:`bayes_merger.search.study.workers.Worker` for others.
    """
    while True:
        with transaction(study) as queue:
            taken = take(queue, queue.entries(), space)
        if taken is not None:
            return Trial(study, completed(study, space, taken)._trial_id)
        suggested = list(suggestions(study, space, 1))
        with transaction(study, in_line=False) as queue:
            queue.add(suggested)


def take(
    queue: Transaction,
    entries: Iterable[Entry],
    space: SearchSpace,
    about: Callable[[FrozenTrial], Mapping[str, Any]] = lambda trial: {},
    *,
    first: bool = False,
) -> FrozenTrial | None:
    """The waiting trial whose turn it is, running; None if none waits.

    Second attempts come before others, and before them the trial that ends a search. One at which all but the last
    tries ended the process comes after all others, and is not what a process begins with. A trial whose values do not
    fit the space (someone queued it by hand) is failed, with that reason.

    Args:
        queue: to take from.
        entries: of the queue.
        space: what is searched.
        about: the attributes that a trial is to run with.
        first: whether this process has drawn nothing yet.
    """
    waiting = [entry for entry in entries if entry.state == TrialState.WAITING]
    for entry in sorted(waiting, key=lambda e: (e.is_dangerous, not e.is_predicted, e.origin, e.number)):
        if first and entry.is_dangerous:
            break
        trial = queue.trial(entry)
        # What a person left open is the sampler's to choose; after a kill the choice is the same.
        missing = {p.name: p.low for p in space.parameters if p.name not in _queued(trial)}
        try:
            space.check({**missing, **_queued(trial)})
        except ConfigError as error:
            queue.finish(entry.id, TrialState.FAIL, None, {REASON: one_line(error)})
            continue
        attributes = about(trial)
        if queue.start(entry, attributes):
            trial.state = TrialState.RUNNING
            trial.user_attrs |= attributes
            return trial
    return None


def _queued(trial: FrozenTrial) -> dict[str, Any]:
    """The values that a trial waits with: ours, or those that Optuna's own ``enqueue_trial`` has written."""
    fixed = trial.system_attrs.get("fixed_params")
    return {**(fixed if isinstance(fixed, dict) else {}), **trial.params}


def completed(study: Study, space: SearchSpace, trial: FrozenTrial) -> FrozenTrial:
    """A running trial with all its values: those that a person left open are chosen by the study's sampler."""
    missing = {name: d for name, d in space.distributions().items() if name not in trial.params}
    if missing:
        queued = _queued(trial)
        values = queued if missing.keys() <= queued.keys() else {**_chosen(study, trial, missing), **queued}
        stored_trials(study)  # Optuna writes values only to trials that it has read
        for name, distribution in missing.items():
            internal = distribution.to_internal_repr(values[name])
            study._storage.set_trial_param(trial._trial_id, name, internal, distribution)
            trial.params[name] = distribution.to_external_repr(internal)
            trial.distributions[name] = distribution
    return trial


def queue_again(queue: Transaction, entries: Iterable[Entry], *, died: bool = False) -> None:
    """Fail running trials without a living worker as interrupted; their values wait again, ahead of all others.

    Args:
        queue: the study's.
        entries: running.
        died: whether their processes ended over them; at the third time they have failed.
    """
    entries = list(entries)
    again = {entry.attributes.get(RETRY_OF) for entry in queue.entries()} if entries else set()
    for entry in entries:
        # In this order: if a process dies in between, a trial is left running and the next process repairs it.
        deaths = entry.deaths + (died and not entry.is_lent)
        if entry.number not in again and deaths < TRIES:
            queue.add([retry(queue.trial(entry), deaths)])
        ended = f"the process ended while it was drawn, {deaths} times (killed, out of memory or a crash)"
        queue.finish(entry.id, TrialState.FAIL, None, {REASON: INTERRUPTED if deaths < TRIES else ended})


def queue_design(queue: Transaction, stored: Mapping[str, Any]) -> None:
    """Write the rows of the start design that are not yet trials.

    Args:
        queue: the study's.
        stored: what the study has under ``DESIGN``.
    """
    distributions = SearchSpace.from_json(stored["space"]).distributions()
    there = queue.rows()
    queue.add(
        [
            waiting_trial(row, distributions, {PHASE: "design", ROW: index})
            for index, row in enumerate(stored["rows"])
            if index not in there
        ]
    )


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


def suggestions(study: Study, space: SearchSpace, count: int) -> Iterator[FrozenTrial]:
    """What the sampler suggests for the next trials, to be added to the study; all after one look at its history."""
    ahead = StudyAhead(study)
    for _ in range(count):
        suggested = _suggestion(ahead, space)
        ahead.expect(suggested)
        yield suggested


def _suggestion(study: StudyAhead, space: SearchSpace) -> FrozenTrial:
    distributions = space.distributions()
    unstored = FrozenTrial(
        number=-1,
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
    values = _chosen(study, unstored, distributions)
    return waiting_trial(values, distributions, {PHASE: "search"})


def _chosen(study: Study, trial: FrozenTrial, distributions: Mapping[str, FloatDistribution]) -> dict[str, Any]:
    """A value of the sampler's for each of these parameters."""
    relative = study.sampler.infer_relative_search_space(study, trial)
    values = study.sampler.sample_relative(study, trial, relative)
    return {
        name: values[name] if name in values else study.sampler.sample_independent(study, trial, name, distribution)
        for name, distribution in distributions.items()
    }
