"""Optuna's storage of a database, which reads thousands of trials in a fifth of the time.

Optuna makes an object of every row, and reads a parameter's range from JSON twice for every trial. Who goes on with a
study, and who takes a dead proposer's place, reads all of its history while others wait.
"""

from __future__ import annotations

import json
from collections.abc import Container
from functools import cached_property
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search.study.rows import SCHEMA, read_trials


class QuickStorage(RDBStorage):
    """Optuna's storage, which reads several trials at once from those tables that we know, and others as always."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        if states is not None or not self._is_known:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        ids = ", ".join(f"{id:d}" for id in (-1, *included_trial_ids))
        newer = f"(trial_id > {trial_id_greater_than:d} OR trial_id IN ({ids}))"
        with self.engine.connect() as connection:
            return read_trials(connection.exec_driver_sql, f"study_id = {study_id:d} AND {newer}")

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """A study's attributes, in one statement; Optuna looks first whether there is such a study."""
        if not self._is_known:
            return super().get_study_user_attrs(study_id)
        query = f"SELECT key, value_json FROM study_user_attributes WHERE study_id = {study_id:d}"
        with self.engine.connect() as connection:
            found = {key: json.loads(text) for key, text in connection.exec_driver_sql(query)}
        return found or super().get_study_user_attrs(study_id)

    @cached_property
    def _is_known(self) -> bool:
        return self.get_current_version() == SCHEMA
