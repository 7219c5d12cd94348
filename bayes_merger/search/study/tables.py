"""The queue in a few statements: Optuna's own tables, written as Optuna would write them, in one transaction.

What Optuna's API does in a transaction per attribute and a statement per parameter is here a multi-row insert per
table. ``tests/search/study/test_tables.py`` compares the rows with those of the API, and reads them through it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from sqlalchemy import ColumnElement, ScalarSelect, Select, Update, and_, cast, func, literal, null, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from bayes_merger.search.study.entry import KNOWN, LATELY, OPEN, SPENT, Entry, Look, Transaction, sound
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

CHANGING: Mapping[Any, Sequence[str]] = {
    TrialUserAttributeModel: ("trial_id", "key", "value_json"),
    TrialHeartbeatModel: ("trial_id", "heartbeat"),
}
"""The key of the rows of a table that change, and last what changes."""

Row = dict[str, Any]
"""Of a table."""

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


class TableTransaction(Transaction):
    """See :class:`~bayes_merger.search.study.entry.Transaction`.

    Args:
        connection: with a transaction that holds the study's lock.
        study: its id in the database.
    """

    def __init__(self, connection: sqlalchemy.Connection, study: int) -> None:
        self._connection = connection
        self._study = study

    def look(self, *, for_workers: bool = False) -> Look:
        """The queue as it is at one moment; one statement."""
        about = self._about(for_workers).subquery()
        attributes = and_(ATTRIBUTES.trial_id == TRIALS.trial_id, ATTRIBUTES.key.in_(KNOWN))
        found = self._connection.execute(
            select(
                about, TRIALS.trial_id, TRIALS.number, TRIALS.state, ATTRIBUTES.key, ATTRIBUTES.value_json,
                HEARTBEATS.heartbeat,
            )
            .select_from(about)
            .outerjoin(TrialModel.__table__, and_(TRIALS.study_id == self._study, TRIALS.state.in_(OPEN)))
            .outerjoin(TrialUserAttributeModel.__table__, attributes)
            .outerjoin(TrialHeartbeatModel.__table__, HEARTBEATS.trial_id == TRIALS.trial_id)
        ).all()  # fmt: skip
        known: dict[tuple[int, int, TrialState, bool], dict[str, Any]] = defaultdict(dict)
        for _, now, _, trial, number, state, key, text, heartbeat in found:
            if trial is not None:
                silent = heartbeat is not None and now.replace(tzinfo=None) - heartbeat > timedelta(seconds=GRACE)
                known[trial, number, state, silent] |= {key: json.loads(text)} if key else {}
        entries = [
            Entry(trial, number, state, sound(attributes), silent)
            for (trial, number, state, silent), attributes in sorted(known.items(), key=lambda one: one[0][0])
        ]
        spent, _, workers = found[0][:3]
        lately = json.loads(f"[{workers or ''}]")
        return Look(entries, spent, {worker["id"] for worker in lately if is_sound(WORKER, worker)})

    def _about(self, for_workers: bool) -> Select[Any]:
        """One row: how many trials are spent, the server's time, and the workers of late as JSON."""
        lately = (
            select(ATTRIBUTES.value_json)
            .distinct()
            .join_from(TrialUserAttributeModel.__table__, TrialModel.__table__)
            .join(TrialHeartbeatModel.__table__, HEARTBEATS.trial_id == TRIALS.trial_id)
            .where(TRIALS.study_id == self._study, ATTRIBUTES.key == WORKER, HEARTBEATS.heartbeat > self._lately())
        ).subquery()
        workers = select(func.aggregate_strings(lately.c.value_json, ",")).scalar_subquery() if for_workers else null()
        return select(self._spent().label("spent"), func.now().label("now"), workers.label("workers"))

    def _lately(self) -> ColumnElement[Any]:
        """The time until which a worker's last sign of life is no more of late."""
        return func.datetime("now", f"-{LATELY} seconds")

    def _spent(self) -> ScalarSelect[int]:
        of_study = select(func.count()).where(TRIALS.study_id == self._study)
        return of_study.where(TRIALS.state.in_(SPENT)).scalar_subquery()

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
        rows = [
            {
                "study_id": self._study,
                "state": trial.state.name,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
            for trial in trials
        ]
        self._create(rows, {model: [more(trial) for trial in trials] for model, more in BELONGINGS.items()})

    def start(self, entry: Entry, attributes: Mapping[str, Any]) -> bool:
        """A waiting trial runs from now on."""
        started = {"state": TrialState.RUNNING, "datetime_start": _utc(datetime.now())}
        more: dict[Any, list[Row]] = {TrialUserAttributeModel: _attributes(attributes), TrialHeartbeatModel: [{}]}
        return self._change(entry.id, (TrialState.WAITING,), started, more) is not None

    def beat(self, trial: int) -> None:
        """A sign of life from whoever has a trial."""
        self._attach(TrialHeartbeatModel, [{"trial_id": trial}])

    def note(self, trial: int, attributes: Mapping[str, Any]) -> bool:
        """A running trial has these attributes as well."""
        running = TrialState.RUNNING
        more = {TrialUserAttributeModel: _attributes(attributes)}
        return self._change(trial, (running,), {"state": running}, more) is not None

    def finish(
        self, trial: int, state: TrialState, values: Sequence[float] | None, attributes: Mapping[str, Any]
    ) -> int | None:
        """A trial has ended."""
        ended = {"state": state, "datetime_complete": _utc(datetime.now())}
        more = {TrialUserAttributeModel: _attributes(attributes), TrialValueModel: _values(values)}
        before = self._change(trial, OPEN, ended, more, self._spent())
        return None if before is None else before + (state in SPENT)

    def ended(self, trial: int) -> TrialState | None:
        """How a trial has ended, if it has."""
        state: TrialState = self._connection.execute(select(TRIALS.state).where(TRIALS.trial_id == trial)).scalar_one()
        return state if state.is_finished() else None

    def _create(self, rows: Sequence[Row], belongings: Mapping[Any, Sequence[Sequence[Row]]]) -> None:
        """Number trials and insert them.

        Args:
            rows: of their table.
            belongings: of each other table the rows of each trial.
        """
        numbered = select(func.count()).where(TRIALS.study_id == self._study)
        first = self._connection.execute(numbered).scalar_one()
        own = [{**row, "number": first + place} for place, row in enumerate(rows)]
        statement = self._insert(TrialModel).returning(TRIALS.trial_id, sort_by_parameter_order=True)
        ids = self._connection.execute(statement, own).scalars().all()
        for model, of_each in belongings.items():
            self._attach(
                model, [{"trial_id": id} | row for id, of_it in zip(ids, of_each, strict=True) for row in of_it]
            )

    def _change(
        self,
        trial: int,
        states: Sequence[TrialState],
        changes: Row,
        belongings: Mapping[Any, Sequence[Row]],
        before: ScalarSelect[int] | None = None,
    ) -> int | None:
        """Change a trial that is in one of these states, and insert rows that belong to it.

        Returns:
            What is asked to be counted before; None: it is in none of these states, and nothing has changed.
        """
        counted = 0 if before is None else self._connection.execute(select(before)).scalar_one()
        if self._connection.execute(self._update(trial, states, changes)).rowcount != 1:
            return None
        for model, rows in belongings.items():
            self._attach(model, [{"trial_id": trial} | row for row in rows])
        return int(counted)

    def _update(self, trial: int, states: Sequence[TrialState], changes: Row) -> Update:
        table = sqlalchemy.update(TrialModel.__table__)
        return table.where(TRIALS.trial_id == trial, TRIALS.state.in_(states)).values(**changes)

    def _attach(self, model: Any, rows: Sequence[Row]) -> None:
        if rows:
            self._connection.execute(self._insert(model), rows)

    def _insert(self, model: Any) -> Any:
        """An insert into a table; of the rows that are there already it replaces what may change."""
        statement = INSERT[self._connection.dialect.name](model.__table__)
        if model not in CHANGING:
            return statement
        *keys, value = CHANGING[model]
        return statement.on_conflict_do_update(index_elements=keys, set_={value: statement.excluded[value]})


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


def _values(values: Sequence[float] | None) -> list[dict[str, Any]]:
    stored = [TrialValueModel.value_to_stored_repr(value) for value in values or ()]
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


BELONGINGS: Mapping[Any, Callable[[FrozenTrial], Sequence[Row]]] = {
    TrialParamModel: _parameters,
    TrialUserAttributeModel: lambda trial: _attributes(trial.user_attrs),
    TrialSystemAttributeModel: lambda trial: _attributes(trial.system_attrs),
    TrialValueModel: lambda trial: _values(trial.values),
    TrialIntermediateValueModel: _intermediate_values,
}
"""What a new trial has in other tables than its own."""
