"""One at a time: the lock around a study's queue. Whoever holds it and dies lets go of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from optuna.study import Study

from bayes_merger.search.study.storage import backend, database_file

POLL = 0.05
"""Seconds between two looks at a lock that another holds."""


@contextmanager
def study_lock(study: Study) -> Iterator[Callable[[], None]]:
    """Nobody else asks this study or tells it anything inside this block.

    The transactions of the database are not enough: between reading what is known and writing what is suggested lies
    a fit of seconds, in which a second worker would suggest the very same. On one machine a lock of the system's lies
    beside the file, on PostgreSQL a lock of a transaction of its own. Both fall with the process.

    Yields:
        To be called right before what was computed is written.

    Raises:
        sqlalchemy.exc.DBAPIError: from that call, if the connection that holds the lock broke.
    """
    storage = backend(study)
    file = database_file(storage)
    if file is None:
        with _held_by_server(storage, study.study_name) as check_lock:
            yield check_lock
    else:
        with FileLock(beside(file, "queue"), poll_interval=POLL):
            yield lambda: None


def beside(file: Path, what: str) -> Path:
    """The name of a lock's file, next to SQLite's own ``-wal`` and ``-shm``."""
    return file.with_name(f"{file.name}-{what}")


def is_free(lock: Path) -> bool:
    """Whether nobody holds a lock's file, be it that there is none."""
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, PermissionError):
        return False


@contextmanager
def _held_by_server(storage: RDBStorage, name: str) -> Iterator[Callable[[], None]]:
    key = int.from_bytes(hashlib.sha256(f"bayes-merger {name}".encode()).digest()[:8], "big", signed=True)
    with storage.engine.connect() as connection:
        # The transaction does nothing but hold the lock; it must not be ended for its idleness.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        taken = sqlalchemy.text("SELECT pg_try_advisory_xact_lock(:key)")
        while not connection.execute(taken, {"key": key}).scalar():
            time.sleep(POLL)

        def check_lock() -> None:
            connection.exec_driver_sql("SELECT 1")

        yield check_lock
