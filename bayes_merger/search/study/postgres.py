"""The queue on a PostgreSQL server, where every statement is a journey: a change and all that belongs to it in one.

https://www.postgresql.org/docs/current/queries-with.html: what changes data in a ``WITH`` sees the tables as they were
before, and hands on what it returns. Rows travel as one JSON each, so a statement's text does not depend on their
number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import sqlalchemy as sql
from optuna.storages._rdb.models import TrialModel
from optuna.trial import TrialState
from sqlalchemy import CTE, ColumnElement, ScalarSelect, Select

from bayes_merger.search.study.entry import LATELY
from bayes_merger.search.study.tables import TRIALS, Row, TableTransaction

PLACE, RANK = "place", "rank"
"""Beside a row's own columns: its trial's place among those added together, and its own among the table's rows."""


class ServerTransaction(TableTransaction):
    """See :class:`~bayes_merger.search.study.tables.TableTransaction`."""

    def _lately(self) -> ColumnElement[Any]:
        return sql.func.localtimestamp() - timedelta(seconds=LATELY)

    def _create(self, rows: Sequence[Row], belongings: Mapping[Any, Sequence[Sequence[Row]]]) -> None:
        given = _given(TrialModel, rows)
        count = sql.select(sql.func.count().label("first")).where(TRIALS.study_id == self._study).cte("counted")
        first = sql.select(count.c.first).scalar_subquery()
        names = [*rows[0]]
        numbered = sql.select(first + given.c[RANK], *(given.c[name] for name in names)).order_by(given.c[RANK])
        new = self._insert(TrialModel).from_select(["number", *names], numbered)
        new = new.returning(TRIALS.trial_id, (TRIALS.number - first).label(PLACE)).cte("new")
        flat = {
            model: [{PLACE: place} | row for place, of_it in enumerate(of_each) for row in of_it]
            for model, of_each in belongings.items()
        }
        self._connection.execute(self._with(new, flat, sql.select(sql.func.count()).select_from(new)))

    def _change(
        self,
        trial: int,
        states: Sequence[TrialState],
        changes: Row,
        belongings: Mapping[Any, Sequence[Row]],
        before: ScalarSelect[int] | None = None,
    ) -> int | None:
        update = self._update(trial, states, changes)
        changed = update.returning(TRIALS.trial_id, sql.literal(0).label(PLACE)).cte("changed")
        flat = {model: [{PLACE: 0} | row for row in rows] for model, rows in belongings.items()}
        counted = sql.select(sql.literal(0) if before is None else before).select_from(changed)
        found: int | None = self._connection.execute(self._with(changed, flat, counted)).scalar_one_or_none()
        return found

    def _with(self, trials: CTE, belongings: Mapping[Any, Sequence[Row]], answer: Select[Any]) -> Select[Any]:
        """One statement that changes trials, inserts what belongs to them, and answers.

        Args:
            trials: what changes them; has their ids and places.
            belongings: of each other table the rows, with their trials' places.
            answer: what is asked.
        """
        for model, rows in belongings.items():
            if rows:
                names = [name for name in rows[0] if name != PLACE]
                given = _given(model, rows)
                source = sql.select(trials.c.trial_id, *(given.c[name] for name in names))
                source = source.where(trials.c[PLACE] == given.c[PLACE]).order_by(given.c[RANK])
                insert = self._insert(model).from_select(["trial_id", *names], source)
                answer = answer.add_cte(insert.cte(model.__tablename__))
        return answer


def _given(model: Any, rows: Sequence[Row]) -> Any:
    """Rows of a table as a table of the statement."""
    types = {PLACE: sql.Integer(), RANK: sql.Integer(), **{one.name: one.type for one in model.__table__.columns}}
    text = json.dumps([{RANK: rank} | row for rank, row in enumerate(rows)], default=_plain)
    return (
        sql.func.json_to_recordset(sql.cast(sql.literal(text, sql.Text), sql.JSON))
        .table_valued(*(sql.column(name, types[name]) for name in (RANK, *rows[0])))
        .render_derived(name=f"given_{model.__tablename__}", with_types=True)
    )


def _plain(value: Enum | datetime) -> str:
    return value.name if isinstance(value, Enum) else value.isoformat()
