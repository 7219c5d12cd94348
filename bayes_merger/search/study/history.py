"""What a study has learned, as a sampler should see it: the same whether or not the process was killed on the way.

A killed trial is not forgotten but tried again, as a new trial that stores its *origin*, the number of the first
attempt. Counting and ordering by origin hides the interruption: the killed and the uninterrupted study are equal to the
last bit of what a sampler computes from them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bayes_merger.errors import TrialFailed

ORIGIN = "origin"
"""User attribute: the number of the trial whose second attempt this one is; absent on a first attempt."""

PHASE = "phase"
"""User attribute: ``design`` for a row of the start design, ``search`` (or nothing) for a sampler's suggestion,
``predicted`` for what is expected to be the best once the search is over; another word for a trial that came from
elsewhere, such as another study."""

PREDICTED = "predicted"
"""The phase of a search's last trial, which its sampler has not suggested."""

PICTURES = "scores"
"""User attribute: the raw scores of a trial's pictures, ``{scorer, payload, index, seed, value}`` each."""

ESTIMATE = "estimate"
"""User attribute of a trial that was cut short: what its score would have been, as far as it is known."""

REASON = "reason"
"""User attribute of a trial that failed: why."""

INTERRUPTED = "interrupted"
"""The reason of a trial whose process died; another trial with the same origin stands for it."""

FINGERPRINT = "fingerprint"
"""User attribute of a study: what must not change while its scores are compared."""

DESIGN = "design"
"""User attribute of a study: the start design and its space."""

ROW = "row"
"""User attribute: which row of the start design a trial is."""

WEIGHTS = "weights"
"""User attribute: all weights of a trial's merge, frozen ones included."""

WORKER = "worker"
"""User attribute: who draws the trial."""

RETRY_OF = "retry_of"
"""User attribute of a second attempt: the number of the attempt before."""

DEATHS = "deaths"
"""User attribute of a second attempt: how many processes have ended while they drew these values."""

AWAITING = "awaiting"
"""User attribute of a running trial: what a person has to judge before it has a score. Nobody draws it any more."""

VARIANCE = "score_variance"
"""User attribute: of a score that a person gave, the variance that comes from the person, as far as it is known."""

FORKED_FROM = "forked_from"
"""User attribute: the study and the number of the trial that this one was taken over from."""


@dataclass(frozen=True)
class History:
    """What happened before a trial.

    Attributes:
        slot: how many trials there were, every attempt at the same values counted once.
        drawn: how many of them the sampler suggested.
        trials: finished, failed, running and waiting ones, but no interrupted ones, in the order of their origins.
        before: the history that this one has a last trial more than, if it was made of one.
        memo: what was computed from this history, by whoever computed it.
    """

    slot: int
    drawn: int
    trials: tuple[FrozenTrial, ...]
    before: History | None = field(default=None, compare=False, repr=False)
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


def origin(trial: FrozenTrial) -> int:
    """The number of the first attempt at this trial's values: its own, unless it stands for an interrupted one."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def is_suggested(trial: FrozenTrial) -> bool:
    """Whether a sampler suggested the trial's values, as opposed to a row of the start design."""
    return bool(trial.user_attrs.get(PHASE, "search") == "search")


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial's process died, as opposed to a trial that failed with an error."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(REASON) == INTERRUPTED


def history_before(study: Study, trial: FrozenTrial) -> History:
    """The history as this trial's sampler should see it; no attempt at the trial itself is part of it."""
    if isinstance(study, StudyAhead):
        return study.history
    itself = origin(trial)
    return _history([other for other in study.get_trials(deepcopy=False) if origin(other) != itself])


def history_of(study: Study) -> History:
    """The history as the sampler of a trial that is not stored yet should see it."""
    return _history(study.get_trials(deepcopy=False))


def _history(others: Sequence[FrozenTrial]) -> History:
    kept: list[tuple[int, int, FrozenTrial]] = []
    origins, suggested = set(), set()
    for trial in others:  # there may be ten thousand: one look at each
        first = origin(trial)
        origins.add(first)
        if is_suggested(trial):
            suggested.add(first)
        if not is_interrupted(trial):
            kept.append((first, trial.number, trial))
    kept.sort(key=itemgetter(0, 1))
    return History(len(origins), len(suggested), tuple(as_seen(trial) for _, _, trial in kept))


class StudyAhead(Study):
    """A study and suggestions that are not stored yet: a sampler can make several after one look at the history.

    Args:
        study: read once, now.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self.history = _history(study.get_trials(deepcopy=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def expect(self, suggested: FrozenTrial) -> None:
        """From now on this suggestion is seen as one that is being drawn."""
        before = self.history
        self.history = History(before.slot + 1, before.drawn + 1, (*before.trials, as_seen(suggested)), before)


def as_seen(trial: FrozenTrial) -> FrozenTrial:
    """The trial as a sampler should see it.

    One that waits will be drawn, so it is seen running; one cut short has its estimate for a score, if there is one.
    """
    if trial.state == TrialState.WAITING:
        seen = copy.copy(trial)
        seen.state = TrialState.RUNNING
        return seen
    estimate = trial.user_attrs.get(ESTIMATE)
    if trial.state != TrialState.PRUNED or not isinstance(estimate, float) or not math.isfinite(estimate):
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.COMPLETE
    seen.values = [estimate]
    return seen


def rater_variance(trials: Sequence[FrozenTrial]) -> float | None:
    """Variance of a score that comes from the person who gave it: the newest, which knows the rater best."""
    found = [trial.user_attrs[VARIANCE] for trial in trials if VARIANCE in trial.user_attrs]
    return float(found[-1]) if found else None


def finite(trial: FrozenTrial | Trial, value: float | Sequence[float]) -> list[float]:
    """A score, or one for each objective, as a list.

    Raises:
        TrialFailed: if one is not a finite number.
    """
    values = [float(one) for one in value] if isinstance(value, Sequence) else [float(value)]
    for one in values:
        if not math.isfinite(one):
            raise TrialFailed(f"trial {trial.number}: the score is {one}, not a number")
    return values
