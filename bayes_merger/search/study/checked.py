"""A study's trials as they may be relied on.

Anything may have written into a study: another Optuna program that added trials of its own, an editor, somebody who
means ill. Every reader sees its trials through :class:`CheckedStudy`: an attribute that is not what a run writes is
missing, a trial without all weights has them from its values, and one that cannot be completed is left out.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError, one_line
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.fork import FORKED_FROM, WEIGHTS
from bayes_merger.search.study.history import ESTIMATE, ORIGIN, PHASE, PICTURES, REASON
from bayes_merger.search.study.queue import DEATHS, DESIGN, RETRY_OF, ROW, WORKER
from bayes_merger.search.study.stopping import SECONDS
from bayes_merger.search.study.storage import stored_trials

LARGEST = 1e100
"""No score is greater than this: its square is a number still."""

SCORED = (TrialState.COMPLETE, TrialState.PRUNED)


class CheckedStudy(Study):
    """A study whose trials are what a run writes; see :func:`checked`."""

    def __init__(self, study_name: str, storage: Any, sampler: Any = None, shown: str = "") -> None:
        super().__init__(study_name, storage, sampler, optuna.pruners.NopPruner())
        self.study_name = shown or study_name
        self._checked: dict[int, FrozenTrial | str] = {}
        self._space: SearchSpace | None = None

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        seen = [self._seen(trial) for trial in stored_trials(self) if states is None or trial.state in states]
        sound = [trial for trial in seen if isinstance(trial, FrozenTrial)]
        return copy.deepcopy(sound) if deepcopy else sound

    def left_out(self) -> dict[int, str]:
        """The number of each trial that cannot be used, and why."""
        seen = {trial.number: self._seen(trial) for trial in stored_trials(self)}
        return {number: trial for number, trial in seen.items() if isinstance(trial, str)}

    def _seen(self, trial: FrozenTrial) -> FrozenTrial | str:
        if self._space is None:
            stored = self.user_attrs.get(DESIGN)
            if stored is None:
                return trial  # still being created
            self._space = SearchSpace.from_json(stored["space"])
        if trial.number in self._checked:
            return self._checked[trial.number]
        found = checked(trial, self._space, len(self.directions))
        if trial.state.is_finished():  # nothing about it changes any more
            self._checked[trial.number] = found
        return found


def checked(trial: FrozenTrial, space: SearchSpace, objectives: int) -> FrozenTrial | str:
    """The trial as a run would have written it, or why it cannot be used.

    Args:
        trial: as stored.
        space: of its study.
        objectives: how many scores a finished trial has.
    """
    seen = copy.copy(trial)
    seen.user_attrs = {key: value for key, value in trial.user_attrs.items() if _is_sound(key, value)}
    for moment in ("datetime_start", "datetime_complete"):
        if not _is_moment(getattr(trial, moment)):
            setattr(seen, moment, None)
    if trial.state not in SCORED:
        return seen  # what waits is checked when it is taken, and nobody relies on the values of the others
    if trial.state == TrialState.COMPLETE and (wrong := _wrong_score(trial.values, objectives)):
        return wrong
    values = {
        parameter.name: trial.params[parameter.name] for parameter in space.parameters if parameter.name in trial.params
    }
    try:
        weights = space.assemble(values)
    except ConfigError as error:
        return one_line(error)
    seen.params, seen.distributions = values, dict(space.distributions())
    if not _are_weights(seen.user_attrs.get(WEIGHTS), weights):
        seen.user_attrs[WEIGHTS] = weights
    return seen


def _wrong_score(values: Any, objectives: int) -> str:
    if values is None or len(values) != objectives:
        return f"it has {len(values or ())} scores, not {objectives}"
    odd = [value for value in values if not _is_number(value)]
    return f"its score is {odd[0]!r}" if odd else ""


def _is_sound(key: str, value: Any) -> bool:
    return key not in _SOUND or _SOUND[key](value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_moment(value: Any) -> bool:
    try:
        return value is None or math.isfinite(value.timestamp())
    except (AttributeError, OverflowError, ValueError, OSError):
        return False


def _are_pictures(value: Any) -> bool:
    forms = {"scorer": _is_text, "payload": _is_text, "index": _is_count, "seed": _is_whole, "value": _is_number}
    return isinstance(value, list) and all(
        isinstance(one, dict) and one.keys() == forms.keys() and all(forms[key](one[key]) for key in forms)
        for one in value
    )


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1e9


def _are_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_seconds, value.values()))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_worker(value: Any) -> bool:
    """Its id becomes part of a file's name."""
    return (
        isinstance(value, dict)
        and _is_text(value.get("host"))
        and bool(re.fullmatch(r"[0-9a-f]{1,64}", str(value.get("id"))))
    )


def _are_weights(value: Any, like: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether this is a number for each of the blocks and weights that the space has."""
    return (
        isinstance(value, dict)
        and value.keys() == like.keys()
        and all(
            isinstance(row, dict) and row.keys() == like[name].keys() and all(map(_is_number, row.values()))
            for name, row in value.items()
        )
    )


_SOUND: Mapping[str, Callable[[Any], bool]] = {
    PHASE: _is_text,
    ROW: _is_count,
    ORIGIN: _is_count,
    RETRY_OF: _is_count,
    DEATHS: _is_count,
    WORKER: _is_worker,
    REASON: _is_text,
    ESTIMATE: _is_number,
    SECONDS: _is_seconds,
    "times": _are_seconds,
    PICTURES: _are_pictures,
    "images": _are_texts,
    "points": _is_number,
    FORKED_FROM: lambda value: isinstance(value, dict),
}
"""What a run writes on a trial; other attributes are nobody's business but their writer's."""
