"""The queue through Optuna's own API: for storages and schema versions whose tables we do not know.

Each step is a transaction of its own, some hundred statements per trial, so the study's lock is held around all of
them; they come in an order in which the process may die between any two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search.study.entry import LATELY, OPEN, SPENT, Entry, Look, Transaction, sound
from bayes_merger.search.study.history import ROW, WORKER
from bayes_merger.search.study.sound import is_sound
from bayes_merger.search.study.storage import database_file


class OptunaTransaction(Transaction):
    """See :class:`~bayes_merger.search.study.entry.Transaction`.

    Args:
        study: whose lock is held.
        storage: under its cache.
    """

    def __init__(self, study: Study, storage: BaseStorage) -> None:
        self._storage = study._storage
        self._study = study._study_id
        self._server = storage if isinstance(storage, RDBStorage) and not database_file(storage) else None
        self._beats = isinstance(storage, RDBStorage)

    def look(self, *, for_workers: bool = False) -> Look:
        """The queue; what waits or runs is read first, so that a trial which ends meanwhile is counted."""
        silent = set(self._server._get_stale_trial_ids(self._study)) if self._server else set()
        entries = [
            Entry(t._trial_id, t.number, t.state, sound(t.user_attrs), t._trial_id in silent)
            for t in self._trials(OPEN)
        ]
        return Look(entries, len(self._trials(SPENT)), self._workers() if for_workers else frozenset())

    def _workers(self) -> set[str]:
        """The ids of those that have a trial or ended one within the last minute; by the workers' clocks."""
        since = datetime.now() - timedelta(seconds=LATELY)
        lately = [
            t for t in self._trials() if t.state == TrialState.RUNNING or (t.datetime_complete or datetime.min) > since
        ]
        return {t.user_attrs[WORKER]["id"] for t in lately if is_sound(WORKER, t.user_attrs.get(WORKER))}

    def _trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study, deepcopy=False, states=states)

    def rows(self) -> set[int]:
        """Which rows of the start design are trials already."""
        found = [t.user_attrs.get(ROW) for t in self._trials()]
        return {row for row in found if row is not None and is_sound(ROW, row)}

    def trial(self, entry: Entry) -> FrozenTrial:
        """All that is known of an entry."""
        return self._storage.get_trial(entry.id)

    def add(self, trials: Sequence[FrozenTrial]) -> None:
        """New trials, finished or waiting, in this order."""
        for trial in trials:
            self._storage.create_new_trial(self._study, template_trial=trial)

    def start(self, entry: Entry, attributes: Mapping[str, Any]) -> bool:
        """A waiting trial runs from now on."""
        try:
            for key, value in attributes.items():  # before it runs: no trial may run without a known worker
                self._storage.set_trial_user_attr(entry.id, key, value)
            self.beat(entry.id)
            return self._storage.set_trial_state_values(entry.id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False  # taken and finished since we looked

    def beat(self, trial: int) -> None:
        """A sign of life from whoever has a trial, where the storage has a place for it."""
        if self._beats:
            self._storage.record_heartbeat(trial)  # type: ignore[attr-defined]

    def note(self, trial: int, attributes: Mapping[str, Any]) -> bool:
        """A running trial has these attributes as well, written in their order."""
        try:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(trial, key, value)
        except UpdateFinishedTrialError:
            return False
        return self._storage.get_trial(trial).state == TrialState.RUNNING

    def finish(
        self, trial: int, state: TrialState, values: Sequence[float] | None, attributes: Mapping[str, Any]
    ) -> int | None:
        """A trial has ended."""
        try:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(trial, key, value)
            ended = self._storage.set_trial_state_values(trial, state, values)
        except UpdateFinishedTrialError:
            return None
        return len(self._trials(SPENT)) if ended else None

    def ended(self, trial: int) -> TrialState | None:
        """How a trial has ended, if it has."""
        state = self._storage.get_trial(trial).state
        return state if state.is_finished() else None
