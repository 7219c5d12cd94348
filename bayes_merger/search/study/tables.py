"""The queue in a few statements: Optuna's own tables, written as Optuna would write them, in one transaction.

What Optuna's API does in a transaction per attribute and a statement per parameter is here a multi-row insert per
table. ``tests/search/study/test_tables.py`` compares the rows with those of the API, and reads them through it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyModel,
    TrialHeartbeatModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import and_, cast, func, literal, null, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from bayes_merger.search.study.entry import KNOWN, LATELY, OPEN, SPENT, Entry, sound
from bayes_merger.search.study.history import ROW, WORKER
from bayes_merger.search.study.sound import LARGEST, is_sound
from bayes_merger.search.study.storage import GRACE, backend

SCHEMA = "v3.2.0.a"
"""The version of Optuna's tables that this module knows."""

INSERT: Mapping[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

STUDIES = StudyModel.__table__.c
TRIALS = TrialModel.__table__.c
PARAMETERS = TrialParamModel.__table__.c
ATTRIBUTES = TrialUserAttributeModel.__table__.c
SYSTEM = TrialSystemAttributeModel.__table__.c
VALUES = TrialValueModel.__table__.c
HEARTBEATS = TrialHeartbeatModel.__table__.c

_known: WeakKeyDictionary[RDBStorage, bool] = WeakKeyDictionary()


def are_known(storage: RDBStorage) -> bool:
    """Whether this module may write a storage's tables."""
    if storage not in _known:
        dialect = storage.engine.dialect
        _known[storage] = (
            dialect.name in INSERT
            and dialect.insert_executemany_returning_sort_by_parameter_order  # not SQLite before 3.35
            and storage.get_current_version() == SCHEMA
        )
    return _known[storage]


def greatest_score(study: Study) -> float | None:
    """The greatest score of one objective without reading the trials; None before the first."""
    storage = backend(study)
    if not are_known(storage):
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max((float(trial.values[0]) for trial in done), default=None)
    query = select(func.max(VALUES.value)).join_from(TrialValueModel.__table__, TrialModel.__table__)
    sound = (TRIALS.state == TrialState.COMPLETE, VALUES.objective == 0, VALUES.value <= LARGEST)
    with storage.engine.connect() as connection:
        found: float | None = connection.execute(query.where(TRIALS.study_id == study._study_id, *sound)).scalar_one()
    return found


def glance(study: Study) -> tuple[int, int] | None:
    """How many trials wait and how many are spent, in one statement and without a lock; None where it takes more."""
    storage = backend(study)
    if not are_known(storage):
        return None
    counts = [func.count().filter(TRIALS.state.in_(states)) for states in ((TrialState.WAITING,), SPENT)]
    with storage.engine.connect() as connection:
        found = connection.execute(select(*counts).where(TRIALS.study_id == study._study_id)).one()
    return int(found[0]), int(found[1])


class TableTransaction:
    """See :class:`~bayes_merger.search.study.entry.Transaction`.

    Args:
        connection: with a transaction that holds the study's lock.
        study: its id in the database.
    """

    def __init__(self, connection: sqlalchemy.Connection, study: int) -> None:
        self._connection = connection
        self._study = study

    def entries(self) -> list[Entry]:
        """The trials that wait or run, oldest first; one statement."""
        attributes = and_(ATTRIBUTES.trial_id == TRIALS.trial_id, ATTRIBUTES.key.in_(KNOWN))
        found = self._connection.execute(
            select(
                TRIALS.trial_id, TRIALS.number, TRIALS.state, ATTRIBUTES.key, ATTRIBUTES.value_json,
                HEARTBEATS.heartbeat, func.now(),
            )
            .select_from(TrialModel.__table__)
            .outerjoin(TrialUserAttributeModel.__table__, attributes)
            .outerjoin(TrialHeartbeatModel.__table__, HEARTBEATS.trial_id == TRIALS.trial_id)
            .where(TRIALS.study_id == self._study, TRIALS.state.in_(OPEN))
        )  # fmt: skip
        about: dict[tuple[int, int, TrialState, bool], dict[str, Any]] = defaultdict(dict)
        for trial, number, state, key, text, heartbeat, now in found:
            silent = heartbeat is not None and now.replace(tzinfo=None) - heartbeat > timedelta(seconds=GRACE)
            about[trial, number, state, silent] |= {key: json.loads(text)} if key else {}
        return [
            Entry(trial, number, state, sound(attributes), silent)
            for (trial, number, state, silent), attributes in sorted(about.items(), key=lambda one: one[0][0])
        ]

    def workers(self) -> set[str]:
        """The ids of those that began a trial or gave a sign of life within the last minute; by the server's clock."""
        now = self._connection.execute(select(func.now())).scalar_one().replace(tzinfo=None)
        found = self._connection.execute(
            select(ATTRIBUTES.value_json)
            .distinct()
            .join_from(TrialUserAttributeModel.__table__, TrialModel.__table__)
            .join(TrialHeartbeatModel.__table__, HEARTBEATS.trial_id == TRIALS.trial_id)
            .where(TRIALS.study_id == self._study, ATTRIBUTES.key == WORKER)
            .where(HEARTBEATS.heartbeat > now - timedelta(seconds=LATELY))
        )
        return {worker["id"] for (text,) in found if is_sound(WORKER, worker := json.loads(text))}

    def spent(self) -> int:
        """How many trials have a score or were cut short."""
        return self._count(TRIALS.state.in_(SPENT))

    def _count(self, *conditions: Any) -> int:
        query = select(func.count()).where(TRIALS.study_id == self._study, *conditions)
        return int(self._connection.execute(query).scalar_one())

    def rows(self) -> set[int]:
        """Which rows of the start design are trials already."""
        query = select(ATTRIBUTES.value_json).join_from(TrialUserAttributeModel.__table__, TrialModel.__table__)
        found = self._connection.execute(query.where(TRIALS.study_id == self._study, ATTRIBUTES.key == ROW))
        return {row for (text,) in found if is_sound(ROW, row := json.loads(text))}

    def trial(self, entry: Entry) -> FrozenTrial:
        """All that is known of an entry."""
        found = self._connection.execute(
            union_all(
                select(
                    literal(True), PARAMETERS.param_id, PARAMETERS.param_name, PARAMETERS.param_value,
                    PARAMETERS.distribution_json,
                ).where(PARAMETERS.trial_id == entry.id),
                select(
                    literal(False), SYSTEM.trial_system_attribute_id, SYSTEM.key,
                    cast(null(), PARAMETERS.param_value.type), SYSTEM.value_json,
                ).where(SYSTEM.trial_id == entry.id),
            )
        )  # fmt: skip
        parameters: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        system: dict[str, Any] = {}
        for is_parameter, _, name, value, text in sorted(found, key=lambda row: row[:2]):
            if is_parameter:
                distributions[name] = _distribution(text)
                parameters[name] = distributions[name].to_external_repr(value)
            else:
                system[name] = json.loads(text)
        return FrozenTrial(
            number=entry.number,
            trial_id=entry.id,
            state=entry.state,
            value=None,
            datetime_start=None,
            datetime_complete=None,
            params=parameters,
            distributions=distributions,
            user_attrs=dict(entry.attributes),
            system_attrs=system,
            intermediate_values={},
        )

    def add(self, trials: Sequence[FrozenTrial]) -> None:
        """New trials, finished or waiting, in this order."""
        if not trials:
            return
        # Optuna's own programs hold this lock while they count trials to number a new one.
        self._connection.execute(select(STUDIES.study_id).where(STUDIES.study_id == self._study).with_for_update())
        first = self._count()
        rows = [
            {
                "number": first + index,
                "study_id": self._study,
                "state": trial.state,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
            for index, trial in enumerate(trials)
        ]
        ids = self._insert(TrialModel, rows)
        for model, more in (
            (TrialParamModel, _parameters),
            (TrialUserAttributeModel, lambda trial: _attributes(trial.user_attrs)),
            (TrialSystemAttributeModel, lambda trial: _attributes(trial.system_attrs)),
            (TrialValueModel, lambda trial: _values(trial.values or ())),
            (TrialIntermediateValueModel, _intermediate_values),
        ):
            own = [{"trial_id": id} | row for id, trial in zip(ids, trials, strict=True) for row in more(trial)]
            self._insert(model, own)

    def start(self, entry: Entry, attributes: Mapping[str, Any]) -> bool:
        """A waiting trial runs from now on."""
        started = {"state": TrialState.RUNNING, "datetime_start": _utc(datetime.now())}
        if not self._update(entry.id, (TrialState.WAITING,), started):
            return False
        self._attach(entry.id, attributes)
        beat = INSERT[self._connection.dialect.name](TrialHeartbeatModel).values(trial_id=entry.id)
        self._connection.execute(
            beat.on_conflict_do_update(index_elements=["trial_id"], set_={"heartbeat": func.current_timestamp()})
        )
        return True

    def note(self, trial: int, attributes: Mapping[str, Any]) -> bool:
        """A running trial has these attributes as well."""
        if not self._update(trial, (TrialState.RUNNING,), {"state": TrialState.RUNNING}):
            return False
        self._attach(trial, attributes)
        return True

    def finish(
        self, trial: int, state: TrialState, values: Sequence[float] | None, attributes: Mapping[str, Any]
    ) -> bool:
        """A trial has ended."""
        if not self._update(trial, OPEN, {"state": state, "datetime_complete": _utc(datetime.now())}):
            return False
        self._attach(trial, attributes)
        self._insert(TrialValueModel, [{"trial_id": trial} | row for row in _values(values or ())])
        return True

    def ended(self, trial: int) -> TrialState | None:
        """How a trial has ended, if it has."""
        state: TrialState = self._connection.execute(select(TRIALS.state).where(TRIALS.trial_id == trial)).scalar_one()
        return state if state.is_finished() else None

    def _update(self, trial: int, states: Sequence[TrialState], changes: Mapping[str, Any]) -> bool:
        table = sqlalchemy.update(TrialModel.__table__)
        changed = self._connection.execute(
            table.where(TRIALS.trial_id == trial, TRIALS.state.in_(states)).values(**changes)
        )
        return changed.rowcount == 1

    def _attach(self, trial: int, attributes: Mapping[str, Any]) -> None:
        rows = [{"trial_id": trial} | row for row in _attributes(attributes)]
        self._insert(TrialUserAttributeModel, rows, over=True)

    def _insert(self, model: Any, rows: Sequence[Mapping[str, Any]], *, over: bool = False) -> list[int]:
        """Rows in one statement per thousand, and trials' ids; ``over`` replaces the values of keys that are there."""
        if not rows:
            return []
        statement = INSERT[self._connection.dialect.name](model.__table__)
        if over:
            fresh = {"value_json": statement.excluded.value_json}
            statement = statement.on_conflict_do_update(index_elements=["trial_id", "key"], set_=fresh)
        key = next(iter(model.__table__.primary_key))
        found = self._connection.execute(statement.returning(key, sort_by_parameter_order=model is TrialModel), rows)
        return [int(id) for (id,) in found]


def _utc(moment: datetime | None) -> datetime | None:
    """Optuna's trials have the local time, its tables UTC, both without saying so."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    found: BaseDistribution = json_to_distribution(text)
    return found


def _parameters(trial: FrozenTrial) -> list[dict[str, Any]]:
    return [
        {
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _values(values: Sequence[float]) -> list[dict[str, Any]]:
    stored = [TrialValueModel.value_to_stored_repr(value) for value in values]
    return [{"objective": index, "value": value, "value_type": kind} for index, (value, kind) in enumerate(stored)]


def _intermediate_values(trial: FrozenTrial) -> list[dict[str, Any]]:
    stored = {
        step: TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        for step, value in trial.intermediate_values.items()
    }
    return [
        {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
        for step, (value, kind) in stored.items()
    ]
