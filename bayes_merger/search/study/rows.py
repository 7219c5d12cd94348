"""A study's SQLite file read as it lies there: a snapshot, in one statement per table.

Optuna's own storage makes an object of every row, which takes seconds for thousands of trials, and is slow to import.
Whoever only looks needs neither. ``tests/search/study/test_rows.py`` compares what is read with what Optuna reads.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Any, NoReturn, cast

from optuna.distributions import BaseDistribution, FloatDistribution, json_to_distribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search.study.reading import Told, check_is_study, reader
from bayes_merger.search.study.sound import is_number

SCHEMA = "v3.2.0.a"
"""The version of Optuna's tables that this module knows."""

_SPECIAL = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
"""How Optuna stores values that SQL has no number for."""

Rows = dict[int, dict[str, Any]]
"""The id of a trial or study -> its names and values."""


@dataclass(frozen=True)
class Glance:
    """What can be said of a study without reading its trials one by one.

    Attributes:
        values: number of each trial that has a score -> its first objective.
        pruned: how many trials were cut short.
        last: when a trial last began or ended, local time.
    """

    values: Mapping[int, float]
    pruned: int
    last: datetime | None


def snapshot(path: Path, waiting: Told) -> RowStorage | None:
    """The studies in an SQLite file as they are now; None if its tables are not those that this module knows.

    Raises:
        ConfigError: it is no study's file.
        StorageError: it cannot be read.
        sqlite3.Error: it is damaged.
        OSError: it cannot be read.
    """
    check_is_study(path, waiting)
    connect = reader(path, waiting)
    with closing(connect()) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return RowStorage(connect) if found == (SCHEMA,) else None


class Attributes(Mapping[str, Any]):
    """A trial's attributes, each read from its JSON when it is first asked for: of thousands of trials hardly any is.

    Args:
        texts: name -> JSON; what cannot be read is missing.
        accepts: whether a value may stand under its name; else it is missing too.
        instead: what stands in the place of some that are missing.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        accepts: Callable[[str, Any], bool] = lambda key, value: True,
        instead: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._texts, self._accepts, self._instead = texts, accepts, instead
        self._values: dict[str, Any] = {}

    def only(self, accepts: Callable[[str, Any], bool], instead: Mapping[str, Any]) -> Attributes:
        """Those that are acceptable, and what stands for others."""
        return Attributes(self._texts, accepts, instead)

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = self._read(key)
        return self._values[key]

    def _read(self, key: str) -> Any:
        if key in self._texts:
            with suppress(ValueError, TypeError, RecursionError):
                value = json.loads(self._texts[key])
                if self._accepts(key, value):
                    return value
        return self._instead[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __iter__(self) -> Iterator[str]:
        return (key for key in {**self._texts, **self._instead, **self._values} if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # a copy is read whole


class RowStorage(BaseStorage):
    """What :func:`snapshot` gives: an Optuna storage that is read once, when it is first asked, and never written."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._trials: dict[int, list[FrozenTrial]] = {}
        with closing(connect()) as connection:
            self._names: dict[int, str] = dict(connection.execute("SELECT study_id, study_name FROM studies"))
            self._directions: dict[int, list[StudyDirection]] = defaultdict(list)
            for study, direction in connection.execute(
                "SELECT study_id, direction FROM study_directions ORDER BY study_id, objective"
            ):
                self._directions[study].append(StudyDirection[direction])
            self._attributes = _attributes(connection, "SELECT study_id, key, value_json FROM study_user_attributes")
            self._system = _attributes(connection, "SELECT study_id, key, value_json FROM study_system_attributes")

    def get_all_studies(self) -> list[Any]:
        """All studies."""
        from optuna.study._frozen import FrozenStudy

        return [
            FrozenStudy(name, None, self._attributes[id], self._system[id], id, directions=self._directions[id])
            for id, name in self._names.items()
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        """A study's id.

        Raises:
            KeyError: there is none of that name.
        """
        return {name: id for id, name in self._names.items()}[study_name]

    def get_study_name_from_id(self, study_id: int) -> str:
        """A study's name."""
        return self._names[study_id]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The direction of each objective."""
        return self._directions[study_id]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """A study's attributes."""
        return self._attributes[study_id]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """A study's attributes of Optuna's own."""
        return self._system[study_id]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial.

        Raises:
            KeyError: there is none of that id.
        """
        everywhere = (trial for study in self._names for trial in self.get_all_trials(study))
        return {trial._trial_id: trial for trial in everywhere}[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials, in order; never copied, since nobody may change what was only read."""
        if study_id not in self._trials:
            with closing(self._connect()) as connection:
                connection.execute("BEGIN")  # all tables as they are at one moment
                others = connection.execute("SELECT 1 FROM trials WHERE study_id IS NOT ? LIMIT 1", (study_id,))
                which = f"study_id = {study_id:d}" if others.fetchone() else ""
                self._trials[study_id] = read_trials(connection.execute, which, _unread)
        return [trial for trial in self._trials[study_id] if states is None or trial.state in states]

    def glance(self, study_id: int) -> Glance:
        """A study at a glance, in three statements."""
        of_it = "FROM trials LEFT JOIN trial_values USING (trial_id) WHERE study_id = ? AND state ="
        with closing(self._connect()) as connection:
            scored = connection.execute(f"SELECT number, value {of_it} 'COMPLETE' AND objective = 0", (study_id,))
            values = {number: value for number, value in scored if is_number(value)}
            ((pruned,),) = connection.execute(f"SELECT count(*) {of_it} 'PRUNED'", (study_id,))
            moments = "max(datetime_start), max(datetime_complete)"
            last = connection.execute(f"SELECT {moments} FROM trials WHERE study_id = ?", (study_id,)).fetchone()
        return Glance(values, pruned, _moment(max((one for one in last if one), default=None)))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = create_new_trial = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


def read_trials(
    ask: Callable[[str], Iterable[Sequence[Any]]],
    which: str = "",
    attributes: Callable[[Iterable[Sequence[Any]]], Rows] | None = None,
) -> list[FrozenTrial]:
    """Trials out of Optuna's tables, in order.

    Args:
        ask: from a query in SQL to its rows.
        which: a condition on the columns of the table ``trials``; without one all that there are, which is read faster.
        attributes: reads the users' from rows of id, name and JSON; by default all at once.
    """
    condition = f"WHERE trial_id IN (SELECT trial_id FROM trials WHERE {which})" if which else ""

    def rows(columns: str, table: str, order: str = "trial_id") -> Iterable[Sequence[Any]]:
        return ask(f"SELECT trial_id, {columns} FROM {table} {condition} ORDER BY {order}")

    # First of all: what is finished here has all it will ever have, though others write meanwhile.
    trials = list(rows("number, state, datetime_start, datetime_complete", "trials", "number"))
    numbers, ranges = _parameters(rows("param_name, distribution_json, param_value", "trial_params", "param_id"))
    own = (attributes or _loaded)(rows("key, value_json", "trial_user_attributes", "trial_user_attribute_id"))
    system = _loaded(rows("key, value_json", "trial_system_attributes", "trial_system_attribute_id"))
    values: dict[int, list[float]] = defaultdict(list)
    for trial, value, kind in rows("value, value_type", "trial_values", "trial_id, objective"):
        values[trial].append(_number(value, kind))
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    columns = "step, intermediate_value, intermediate_value_type"
    for trial, step, value, kind in rows(columns, "trial_intermediate_values"):
        steps[trial][step] = _number(value, kind)
    return [
        FrozenTrial(
            number, TrialState[state], None, _moment(started), _moment(ended), numbers[id], ranges[id], own[id],
            system[id], steps[id], id, values=values.get(id),
        )
        for id, number, state, started, ended in trials
    ]  # fmt: skip


def _parameters(rows: Iterable[Sequence[Any]]) -> tuple[Rows, Rows]:
    """Of each trial the values of its parameters, and their distributions, which trials of the same ones share."""
    numbers: Rows = defaultdict(dict)
    ranges: Rows = defaultdict(dict)
    known: dict[Any, dict[str, BaseDistribution]] = {}
    for trial, own in groupby(rows, itemgetter(0)):
        _, names, texts, values = zip(*own, strict=True)
        if (names, texts) not in known:
            known[names, texts] = dict(zip(names, map(_distribution, texts), strict=True))
        found = known[names, texts]
        if any(type(one) is not FloatDistribution for one in found.values()):
            values = tuple(found[name].to_external_repr(value) for name, value in zip(names, values, strict=True))
        numbers[trial] |= zip(found, values, strict=True)
        ranges[trial] = ranges[trial] | found if trial in ranges else found
    return numbers, ranges


def _number(value: float, kind: str) -> float:
    return value if kind == "FINITE" else _SPECIAL[kind]


def _attributes(connection: sqlite3.Connection, query: str) -> Rows:
    return _loaded(connection.execute(query))


def _unread(rows: Iterable[Sequence[Any]]) -> Rows:
    texts: dict[int, dict[str, str]] = defaultdict(dict)
    for id, key, text in rows:
        texts[id][key] = text
    found: Any = defaultdict(lambda: Attributes({}), {id: Attributes(own) for id, own in texts.items()})
    return cast("Rows", found)


def _loaded(rows: Iterable[Sequence[Any]]) -> Rows:
    found: Rows = defaultdict(dict)
    left = iter(rows)
    while some := list(islice(left, 1000)):
        ids, keys, texts = zip(*some, strict=True)
        for id, key, value in zip(ids, map(intern, keys), _decoded(texts), strict=True):
            found[id][key] = value
    return found


def _decoded(texts: Sequence[str]) -> list[Any]:
    """What each JSON text says. Many are read faster as one; if any is wrong, its own error is told."""
    with suppress(ValueError, TypeError, RecursionError):
        together: list[Any] = json.loads(f"[{','.join(texts)}]")
        if len(together) == len(texts):
            return together
    return [json.loads(text) for text in texts]


def _moment(stored: str | datetime | None) -> datetime | None:
    """Optuna's tables have UTC, its trials the local time, both without saying so."""
    if stored is None:
        return None
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp())


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    found: BaseDistribution = json_to_distribution(text)
    return found
