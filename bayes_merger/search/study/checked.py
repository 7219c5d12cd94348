"""A study's trials as they may be relied on.

Anything may have written into a study: another Optuna program that added trials of its own, an editor, somebody who
means ill. Every reader sees its trials through :class:`CheckedStudy`: an attribute that is not what a run writes is
missing, a trial without all weights has them from its values, and one that cannot be completed is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError, one_line
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import DESIGN, WEIGHTS
from bayes_merger.search.study.rows import Attributes
from bayes_merger.search.study.sound import is_moment, is_number, is_sound

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Study)

SCORED = (TrialState.COMPLETE, TrialState.PRUNED)

Revalue = Callable[[FrozenTrial], None]
"""Gives a finished trial the value that is to be seen."""


@dataclass
class _Reading:
    """What one study held when it was read.

    Attributes:
        study: the study.
        attributes: its own.
        stored: its trials as they are in the database.
        answers: what functions have found out about it.
    """

    study: Study
    attributes: dict[str, Any]
    stored: list[FrozenTrial]
    answers: dict[Callable[..., Any], Any] = field(default_factory=dict)


_READING: ContextVar[_Reading | None] = ContextVar("reading", default=None)


def reads_once(look: Callable[Concatenate[Study, P], T]) -> Callable[Concatenate[Study, P], T]:
    """A function that only looks at a study, again and again: for it the study stays as it was at the beginning."""

    @wraps(look)
    def looking(study: Study, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not isinstance(study, CheckedStudy) or _reading_of(study):
            return look(study, *args, **kwargs)
        token = _READING.set(_Reading(study, study.user_attrs, stored_trials(study)))
        try:
            return look(study, *args, **kwargs)
        finally:
            _READING.reset(token)

    return looking


def answered_once(question: Callable[[S], T]) -> Callable[[S], T]:
    """A function of a study alone: while somebody reads it, the answer is found once, and nobody may change it."""

    @wraps(question)
    def asking(study: S, /) -> T:
        reading = _reading_of(study)
        if reading is None:
            return question(study)
        if question not in reading.answers:
            reading.answers[question] = question(study)
        found: T = reading.answers[question]
        return found

    return asking


def _reading_of(study: Study) -> _Reading | None:
    reading = _READING.get()
    return reading if reading and reading.study is study else None


class CheckedStudy(Study):
    """A study whose trials are what a run writes; see :func:`checked`."""

    def __init__(self, study_name: str, storage: Any, sampler: Any = None, shown: str = "") -> None:
        super().__init__(study_name, storage, sampler, optuna.pruners.NopPruner())
        self.study_name = shown or study_name
        self._checked: dict[int, FrozenTrial | str] = {}
        self._space: SearchSpace | None = None
        self._revaluing: Callable[[Study], Revalue | None] = lambda study: None
        self._revalue: Revalue | None = None

    def revalued_by(self, revaluing: Callable[[Study], Revalue | None]) -> None:
        """Show other values than were told.

        Args:
            revaluing: from the study to what gives its trials their values; None as long as they are those told. It is
                asked until it has an answer, which holds for good.
        """
        self._revaluing = revaluing

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The study's attributes; not to be changed in place."""
        reading = _reading_of(self)
        return dict(reading.attributes if reading else self._storage.get_study_user_attrs(self._study_id))

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if self._revalue is None and (found := self._revaluing(self)):
            self._revalue, self._checked = found, {}
        if _reading_of(self):
            sound = [trial for trial in _sound_trials(self) if states is None or trial.state in states]
        else:
            seen = [self._seen(trial) for trial in stored_trials(self) if states is None or trial.state in states]
            sound = [trial for trial in seen if isinstance(trial, FrozenTrial)]
        return copy.deepcopy(sound) if deepcopy else sound

    @property
    def strangers(self) -> int:
        """How many of the finished trials that were read so far cannot be used."""
        return sum(isinstance(found, str) for found in self._checked.values())

    def left_out(self) -> dict[int, str]:
        """The number of each trial that cannot be used, and why."""
        seen = {trial.number: self._seen(trial) for trial in stored_trials(self)}
        return {number: trial for number, trial in seen.items() if isinstance(trial, str)}

    def _seen(self, trial: FrozenTrial) -> FrozenTrial | str:
        if not isinstance(trial.number, int):
            raise ValueError("a trial without a number")
        if self._space is None:
            stored = self.user_attrs.get(DESIGN)
            if stored is None:
                return trial  # still being created
            self._space = SearchSpace.from_json(stored["space"])
        if trial.number in self._checked:
            return self._checked[trial.number]
        found = checked(trial, self._space, len(self.directions))
        if self._revalue and isinstance(found, FrozenTrial) and found.state == TrialState.COMPLETE:
            self._revalue(found)
        if trial.state.is_finished():  # nothing about it changes any more
            self._checked[trial.number] = found
        return found


@answered_once
def _sound_trials(study: CheckedStudy) -> list[FrozenTrial]:
    return [seen for trial in stored_trials(study) if isinstance(seen := study._seen(trial), FrozenTrial)]


def strangers(study: Study) -> int:
    """How many finished trials are other programs', as far as they were read."""
    return study.strangers if isinstance(study, CheckedStudy) else 0


def stored_trials(study: Study) -> list[FrozenTrial]:
    """All trials of a study as they are in the database, those that others have put there included."""
    if reading := _reading_of(study):
        return reading.stored
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def checked(trial: FrozenTrial, space: SearchSpace, objectives: int) -> FrozenTrial | str:
    """The trial as a run would have written it, or why it cannot be used.

    Args:
        trial: as stored.
        space: of its study.
        objectives: how many scores a finished trial has.
    """
    seen = copy.copy(trial)
    for moment in ("datetime_start", "datetime_complete"):
        if not is_moment(getattr(trial, moment)):
            setattr(seen, moment, None)
    if trial.state not in SCORED:
        seen.user_attrs = _accepted(trial.user_attrs, is_sound, {})
        return seen  # what waits is checked when it is taken, and nobody relies on the values of the others
    if trial.state == TrialState.COMPLETE and (wrong := _wrong_score(trial.values, objectives)):
        return wrong
    given = trial.params
    values = given if (*given,) == space.names else {name: given[name] for name in space.names if name in given}
    try:
        weights = space.assemble(values)
    except ConfigError as error:
        return one_line(error)
    seen.params, seen.distributions = values, cast("dict[str, BaseDistribution]", space.distributions())

    def accepts(key: str, value: Any) -> bool:
        if key != WEIGHTS:
            return is_sound(key, value)
        return value != weights and _are_weights(value, weights)  # mostly equal: nothing to look at one by one

    seen.user_attrs = _accepted(trial.user_attrs, accepts, {WEIGHTS: weights})
    return seen


def _accepted(
    stored: Mapping[str, Any], accepts: Callable[[str, Any], bool], instead: dict[str, Any]
) -> dict[str, Any]:
    if isinstance(stored, Attributes):
        return cast("dict[str, Any]", stored.only(accepts, instead))
    return instead | {key: value for key, value in stored.items() if accepts(key, value)}


def _wrong_score(values: Any, objectives: int) -> str:
    if values is None or len(values) != objectives:
        return f"it has {len(values or ())} scores, not {objectives}"
    odd = [value for value in values if not is_number(value)]
    return f"its score is {odd[0]!r}" if odd else ""


def _are_weights(value: Any, like: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether this is a number for each of the blocks and weights that the space has."""
    return (
        isinstance(value, dict)
        and value.keys() == like.keys()
        and all(
            isinstance(row, dict) and row.keys() == like[name].keys() and all(map(is_number, row.values()))
            for name, row in value.items()
        )
    )
