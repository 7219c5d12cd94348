"""The study: everything a run has learned, in one file, written so that a process may die at any moment.

Three habits make that true:

* a trial's values are written down in one transaction, as a *waiting* trial, before anyone starts on it: the start
  design when the study is created, a sampler's suggestion right before it is taken up;
* a trial found running although its process is dead is failed as *interrupted*, and its values wait again, ahead of
  all others (:func:`heal`);
* whatever takes two steps can be taken again from the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bayes_merger.errors import ConfigError, TrialFailed, nearest
from bayes_merger.search.design import design
from bayes_merger.search.history import INTERRUPTED, ORIGIN, PHASE, REASON, is_interrupted, origin
from bayes_merger.search.space import SearchSpace
from bayes_merger.search.storage import open_storage

__all__ = [
    "ask",
    "create_study",
    "design",
    "fail",
    "failed",
    "fingerprint_difference",
    "finished",
    "heal",
    "load_study",
    "open_storage",
    "open_study",
    "tell",
]

FINGERPRINT = "fingerprint"
DESIGN = "design"
RETRY_OF = "retry_of"
ROW = "row"


def create_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    sampler: BaseSampler,
    *,
    space: SearchSpace,
    fingerprint: Mapping[str, Any],
    design: Sequence[Mapping[str, float]],
    attributes: Mapping[str, Any] | None = None,
) -> Study:
    """A new study with its start design waiting. If a process died while creating it, its creation is completed.

    Args:
        storage: from :func:`open_storage`.
        name: of the study.
        sampler: what suggests once the design is done.
        space: what is searched.
        fingerprint: what must not change while scores are to be compared; plain JSON.
        design: from :func:`design`.
        attributes: what else the study should remember, plain JSON; it is there from the study's birth on.

    Raises:
        ConfigError: if a study of that name exists already, or a row does not fit the space.
    """
    for row in design:
        space.check(row)
    study = optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True
    )
    if _is_born(study):
        raise ConfigError(f"study {name!r} exists already: resume it, or choose another name")
    for key, value in (attributes or {}).items():
        study.set_user_attr(key, value)
    study.set_user_attr(FINGERPRINT, dict(fingerprint))
    # This one transaction is the study's birth; from here on the rows can be completed without their creator.
    study.set_user_attr(DESIGN, {"space": space.to_json(), "rows": [dict(row) for row in design]})
    _queue_design(study)
    return study


def load_study(storage: optuna.storages.BaseStorage, name: str, sampler: BaseSampler | None = None) -> Study:
    """A study that exists; nothing in it is changed. Without a sampler it is only good for reading.

    Raises:
        ConfigError: if there is none of that name, or its creation never came to an end.
    """
    try:
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler or optuna.samplers.RandomSampler(0))
    except KeyError:
        known = optuna.get_all_study_names(storage)
        raise ConfigError(f"no study {name!r} here; {nearest(name, known) if known else 'there is none'}") from None
    if not _is_born(study):
        raise ConfigError(f"study {name!r} was interrupted while being created and holds nothing; run it anew")
    return study


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    sampler: BaseSampler,
    *,
    space: SearchSpace,
    fingerprint: Mapping[str, Any],
    design: Sequence[Mapping[str, float]],
    attributes: Mapping[str, Any] | None = None,
) -> Study:
    """The study of that name, healed; created if there is none, or if its creation was interrupted.

    Raises:
        ConfigError: if its fingerprint is another, with the differences.
    """
    born = name in optuna.get_all_study_names(storage) and _is_born(
        optuna.load_study(storage=storage, study_name=name, sampler=sampler)
    )
    if not born:
        return create_study(
            storage, name, sampler, space=space, fingerprint=fingerprint, design=design, attributes=attributes
        )
    study = load_study(storage, name, sampler)
    difference = fingerprint_difference(study.user_attrs[FINGERPRINT], fingerprint)
    if difference:
        raise ConfigError(
            f"study {name!r} cannot go on, its scores would not compare: {'; '.join(difference)}. "
            "Undo the change or choose another name"
        )
    heal(study)
    return study


def heal(study: Study) -> list[int]:
    """Make a study whole whose process died. Call it before the first :func:`ask`, while no one else works on it.

    Trials left running are failed as interrupted, and their values wait again, ahead of all others. Rows of the start
    design that were never written are.

    Returns:
        The numbers of the interrupted trials.
    """
    _queue_design(study)
    trials = study.get_trials(deepcopy=False)
    again = {t.user_attrs[RETRY_OF] for t in trials if RETRY_OF in t.user_attrs}
    dead = [t for t in trials if t.state == TrialState.RUNNING]
    for trial in dead:
        # In this order: whoever dies in between leaves a running trial, and the next one heals on.
        if trial.number not in again:
            study.add_trial(_retry(trial))
        live = Trial(study, trial._trial_id)
        live.set_user_attr(REASON, INTERRUPTED)
        study.tell(live, state=TrialState.FAIL)
    return [trial.number for trial in dead]


def ask(study: Study, space: SearchSpace) -> Trial:
    """The next trial, running, with all its values: one that waits, or a new suggestion of the study's sampler.

    A waiting trial whose values do not fit the space (someone queued it by hand) is failed, with that reason.
    """
    distributions = space.distributions()
    while True:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for candidate in sorted(waiting, key=lambda t: (origin(t), t.number)):
            trial = _take(study, candidate, space, distributions)
            if trial is not None:
                return trial
        study.add_trial(_waiting(_suggestion(study, distributions), distributions, {PHASE: "search"}))


def tell(study: Study, trial: Trial, value: float) -> None:
    """The trial's score: greater is better. Attributes must have been set before.

    Raises:
        TrialFailed: if the score is no finite number; nothing is stored, the trial still runs.
    """
    if not math.isfinite(value):
        raise TrialFailed(f"trial {trial.number}: the score is {value}, not a number")
    study.tell(trial, float(value))


def fail(study: Study, trial: Trial, reason: str) -> None:
    """The trial has no score, for this reason. It counts as tried: the sampler goes elsewhere."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def finished(study: Study) -> int:
    """How many trials have a score."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def failed(study: Study) -> int:
    """How many trials failed by themselves; interrupted ones were tried again and do not count."""
    return sum(not is_interrupted(t) for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))


def fingerprint_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, a line each: ``models.a: 1234 is now 5678``; empty if nothing does."""
    before, after = _leaves(old), _leaves(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            lines.append(f"{key}: {before[key]!r} is gone")
        elif key not in before:
            lines.append(f"{key}: {after[key]!r} is new")
        elif before[key] != after[key]:
            lines.append(f"{key}: {before[key]!r} is now {after[key]!r}")
    return lines


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and (tree or not path):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, (list, tuple)) and tree:
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {path: list(tree) if isinstance(tree, tuple) else tree}
    return {
        leaf: value for key, inner in items for leaf, value in _leaves(inner, f"{path}.{key}" if path else key).items()
    }


def _is_born(study: Study) -> bool:
    return DESIGN in study.user_attrs


def _queue_design(study: Study) -> None:
    """Write the rows of the start design that are not yet trials."""
    stored = study.user_attrs[DESIGN]
    distributions = SearchSpace.from_json(stored["space"]).distributions()
    there = {t.user_attrs.get(ROW) for t in study.get_trials(deepcopy=False)}
    for index, row in enumerate(stored["rows"]):
        if index not in there:
            study.add_trial(_waiting(row, distributions, {PHASE: "design", ROW: index}))


def _waiting(
    values: Mapping[str, Any], distributions: Mapping[str, FloatDistribution], attributes: Mapping[str, Any]
) -> FrozenTrial:
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=dict(values),
        distributions={name: distributions[name] for name in values},
        user_attrs=dict(attributes),
    )


def _retry(trial: FrozenTrial) -> FrozenTrial:
    """The same values again. What the dead process noted on the trial stays there: half a note is no note."""
    kept = {key: trial.user_attrs[key] for key in (PHASE, ROW) if key in trial.user_attrs}
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=kept | {ORIGIN: origin(trial), RETRY_OF: trial.number},
        system_attrs={key: value for key, value in trial.system_attrs.items() if key == "fixed_params"},
    )


def _suggestion(study: Study, distributions: Mapping[str, FloatDistribution]) -> dict[str, Any]:
    """What the sampler suggests for a trial that is not stored yet."""
    number = len(study.get_trials(deepcopy=False))
    unborn = FrozenTrial(
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
    relative = study.sampler.infer_relative_search_space(study, unborn)
    values = study.sampler.sample_relative(study, unborn, relative)
    return {
        name: values[name] if name in values else study.sampler.sample_independent(study, unborn, name, distribution)
        for name, distribution in distributions.items()
    }


def _take(
    study: Study, waiting: FrozenTrial, space: SearchSpace, distributions: Mapping[str, FloatDistribution]
) -> Trial | None:
    """The waiting trial, running; None if another took it, or its values do not fit."""
    try:
        if not study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
            return None
    except UpdateFinishedTrialError:
        return None  # taken and done with since we looked
    trial = Trial(study, waiting._trial_id)
    queued = {**waiting.system_attrs.get("fixed_params", {}), **waiting.params}
    try:
        # What a person left open is the sampler's to choose; it is chosen again alike after a kill.
        missing = {p.name: p.low for p in space.parameters if p.name not in queued}
        space.check({**missing, **queued})
    except ConfigError as error:
        fail(study, trial, str(error))
        return None
    for name, distribution in distributions.items():
        if name not in waiting.params:
            trial.suggest_float(name, distribution.low, distribution.high)
    return trial
