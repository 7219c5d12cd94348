"""Two locks of a study, both gone with the process that holds them.

The queue's lock is held for the few statements of a transaction; whoever wants it waits in the database's own line,
first come, first served. The proposer's is held while a suggestion is made: between reading what is known and writing
what is suggested lies a fit of seconds, in which a second process would suggest the same point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from optuna.study import Study

from bayes_merger.search.study.storage import backend, database_file

POLL = 0.05
"""Seconds between two attempts to lock a file that another process has locked."""

QUEUE, PROPOSER = "queue", "proposer"


@contextmanager
def study_lock(study: Study) -> Iterator[None]:
    """Hold the queue's lock over several transactions: on one machine a file's beside the study's, else PostgreSQL's.

    Raises:
        sqlalchemy.exc.DBAPIError: the server cannot be reached, or another process holds it for too long.
    """
    storage = backend(study)
    file = database_file(storage)
    if file is None:
        line = place_in_line(study)
        with _lasting(storage) as connection:
            line(connection)
            yield
    else:
        with FileLock(beside(file, QUEUE), poll_interval=POLL):
            yield


def place_in_line(study: Study) -> Callable[[sqlalchemy.Connection], None]:
    """What locks the queue until the end of a connection's transaction; in SQLite each of ours has done so already."""
    if database_file(backend(study)) is not None:
        return lambda connection: None
    lock = sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_key(study, QUEUE)))

    def wait(connection: sqlalchemy.Connection) -> None:
        connection.execute(lock)

    return wait


@contextmanager
def proposer_lock(study: Study) -> Iterator[Callable[[], None] | None]:
    """Be the one process that makes suggestions, unless there is one.

    Yields:
        None if another process is; else a check to call right before writing what was computed.

    Raises:
        sqlalchemy.exc.DBAPIError: from that call, if the connection that holds the lock broke.
    """
    storage = backend(study)
    file = database_file(storage)
    if file is None:
        lock = sqlalchemy.select(sqlalchemy.func.pg_try_advisory_xact_lock(_key(study, PROPOSER)))
        with _lasting(storage) as connection:
            free = connection.execute(lock).scalar_one()

            def check_lock() -> None:
                connection.exec_driver_sql("SELECT 1")

            yield check_lock if free else None
    else:
        try:
            held = FileLock(beside(file, PROPOSER)).acquire(timeout=0)
        except Timeout:
            yield None
        else:
            with held:
                yield lambda: None


def beside(file: Path, what: str) -> Path:
    """The name of a lock's file, next to SQLite's own ``-wal`` and ``-shm``."""
    return file.with_name(f"{file.name}-{what}")


def is_free(lock: Path) -> bool:
    """Whether no process holds a lock's file, or there is no such file."""
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, PermissionError):
        return False


@contextmanager
def _lasting(storage: RDBStorage) -> Iterator[sqlalchemy.Connection]:
    """A transaction that does nothing but hold a lock; it must not be ended for being idle."""
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield connection


def _key(study: Study, what: str) -> int:
    """The number that a lock is to the server: one for each study and purpose."""
    name = study._storage.get_study_name_from_id(study._study_id)
    text = f"bayes-merger {name}" if what == QUEUE else f"bayes-merger {what} {name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
