"""A new SQLite file for studies, with the tables that Optuna makes.

Optuna reads its ten migrations each time it makes them, which is four fifths of the time. So it does once per process,
in memory, and every new file gets its tables from there, in one transaction.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from bayes_merger.search.study.reading import LOCKED, Told, when_unlocked


def make_tables(path: Path, waiting: Told) -> str:
    """Put Optuna's tables into a file that is empty or does not exist; of several processes one does it.

    Returns:
        the revision of the tables that the installed Optuna makes.

    Raises:
        sqlite3.Error: the file cannot be made or written.
    """
    revision, statements = _tables()
    with closing(sqlite3.connect(path, timeout=LOCKED, isolation_level=None)) as connection:
        when_unlocked(lambda: connection.execute("BEGIN IMMEDIATE"), waiting)
        if connection.execute("SELECT name FROM sqlite_master").fetchone() is None:
            for statement in statements:
                connection.execute(statement)
        connection.execute("COMMIT")
    return revision


@cache
def _tables() -> tuple[str, tuple[str, ...]]:
    """Their revision, and what makes them."""
    made = RDBStorage("sqlite://", skip_compatibility_check=True)  # with itself
    with closing(made.engine.raw_connection()) as pooled:
        connection: Any = pooled.driver_connection
        _begin, *statements, _commit = connection.iterdump()
    revision = made.get_current_version()
    made.engine.dispose()
    return revision, tuple(statements)
