"""The study: everything a run has learned, in one file, written so that a process may die at any moment.

Three habits make that true:

* a trial's values are written down in one transaction, as a *waiting* trial, before any worker starts it: the start
  design when the study is created, a sampler's suggestion right before it is started;
* a trial found running although its process is dead is failed as *interrupted*, and its values wait again, ahead of
  all others (:func:`recover`);
* every change of several steps can be repeated from the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.space.design import design
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.alive import recover
from bayes_merger.search.study.checked import CheckedStudy
from bayes_merger.search.study.history import DESIGN, FINGERPRINT, REASON, finite, is_interrupted
from bayes_merger.search.study.loading import is_initialised, load_study, name_in, readable
from bayes_merger.search.study.lock import study_lock
from bayes_merger.search.study.queue import ask, queue_design
from bayes_merger.search.study.storage import open_storage
from bayes_merger.search.study.transaction import transaction

__all__ = [
    "FINGERPRINT",
    "ask",
    "check_fingerprint",
    "create_study",
    "design",
    "fail",
    "failed",
    "fingerprint_difference",
    "finished",
    "listed",
    "load_study",
    "open_storage",
    "open_study",
    "prune",
    "recover",
    "tell",
]


def create_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    sampler: BaseSampler,
    *,
    space: SearchSpace,
    fingerprint: Mapping[str, Any],
    design: Sequence[Mapping[str, float]],
    attributes: Mapping[str, Any] | None = None,
    objectives: int = 1,
    taken: Sequence[FrozenTrial] = (),
) -> Study:
    """A new study with its start design waiting. If a process died while creating it, its creation is completed.

    Args:
        storage: from :func:`open_storage`.
        name: of the study.
        sampler: what suggests once the design is done.
        space: what is searched.
        fingerprint: what must not change while scores are to be compared; plain JSON.
        design: from :func:`design`.
        attributes: what else the study should remember, plain JSON; it is there from the study's creation on.
        objectives: how many scores a trial has; all are maximised.
        taken: trials that another study has finished, see :mod:`bayes_merger.search.study.fork`.

    Raises:
        ConfigError: if a study of that name exists already, or a row does not fit the space.
    """
    for row in design:
        space.check(row)
    study = _empty_study(storage, name, sampler, objectives)
    with study_lock(study):
        if is_initialised(study):
            raise ConfigError(f"study {name!r} exists already: resume it, or choose another name")
        with transaction(study, in_line=False) as queue:
            queue.add(taken)
        for key, value in (attributes or {}).items():
            study.set_user_attr(key, value)
        study.set_user_attr(FINGERPRINT, dict(fingerprint))
        # This one transaction creates the study; from here on the rows can be completed without their creator.
        born = {"space": space.to_json(), "rows": [dict(row) for row in design]}
        study.set_user_attr(DESIGN, born)
    with transaction(study) as queue:
        queue_design(queue, born)
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
    objectives: int = 1,
    taken: Sequence[FrozenTrial] = (),
    alone: bool = False,
    shown: str = "",
) -> Study:
    """The study of that name, repaired; created if there is none, or if its creation was interrupted.

    ``alone`` and ``shown`` are those of :func:`load_study`.

    Raises:
        ConfigError: if its fingerprint differs; the text lists the differences.
    """
    with readable(name):
        name, known = name_in(storage, name, alone)
    exists = name in known and is_initialised(CheckedStudy(name, storage, sampler))
    if not exists:
        return create_study(
            storage,
            name,
            sampler,
            space=space,
            fingerprint=fingerprint,
            design=design,
            attributes=attributes,
            objectives=objectives,
            taken=taken,
        )
    study = load_study(storage, name, sampler, shown=shown)
    check_fingerprint(study, fingerprint)
    recover(study)
    return study


def tell(study: Study, trial: Trial, value: float | Sequence[float]) -> None:
    """The trial's score, or one for each objective: greater is better. Attributes must have been set before.

    Raises:
        TrialFailed: if a score is not a finite number; nothing is stored, the trial still runs.
    """
    study.tell(trial, finite(trial, value))


def fail(study: Study, trial: Trial, reason: str) -> None:
    """The trial has no score, for this reason. It counts as tried: the sampler looks elsewhere."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def prune(study: Study, trial: Trial, reason: str) -> None:
    """The trial was cut short, for this reason. It has no score, since it has fewer pictures than the others."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.PRUNED)


def finished(study: Study) -> int:
    """How many trials of the budget are used: those that have a score, and those that were cut short."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def failed(study: Study) -> int:
    """How many trials failed with an error; interrupted ones were tried again and do not count."""
    return sum(not is_interrupted(t) for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))


def check_fingerprint(study: Study, fingerprint: Mapping[str, Any]) -> None:
    """Check that new scores would be comparable with the study's.

    Raises:
        ConfigError: they would not, with the differences.
    """
    difference = fingerprint_difference(study.user_attrs[FINGERPRINT], fingerprint)
    if difference:
        raise ConfigError(
            f"study {study.study_name!r} cannot continue, because its scores would not be comparable: "
            f"{listed(difference)}. Undo the change or choose another name"
        )


def listed(differences: Sequence[str], most: int = 5) -> str:
    """The first few differences in one line, and how many more there are."""
    more = f"; and {len(differences) - most} more" if len(differences) > most else ""
    return "; ".join(differences[:most]) + more


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
            lines.append(f"{_told(key, before, after)}: {before[key]!r} is now {after[key]!r}")
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


def _told(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A leaf as people know it: the value of a pair in a list by its name, ``activations.saliency.b``."""
    pair, _, place = key.rpartition(".")
    whole, _, number = pair.rpartition(".")
    name = before.get(f"{pair}.0")
    alike = isinstance(name, str) and after.get(f"{pair}.0") == name
    return f"{whole}.{name}" if place == "1" and number.isdecimal() and alike else key


def _empty_study(storage: optuna.storages.BaseStorage, name: str, sampler: BaseSampler, objectives: int) -> Study:
    """An empty study; one that a dead process left half created is deleted first."""

    def make() -> Study:
        optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, directions=["maximize"] * objectives, load_if_exists=True
        )
        return CheckedStudy(name, storage, sampler)

    study = make()
    if not is_initialised(study) and study.get_trials(deepcopy=False):
        optuna.delete_study(study_name=name, storage=storage)
        study = make()
    return study
