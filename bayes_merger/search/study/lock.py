"""The lock around a study's queue: one process at a time. It is released when the process that holds it dies."""

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
"""Seconds between two attempts to take a lock that another process holds."""


@contextmanager
def study_lock(study: Study) -> Iterator[Callable[[], None]]:
    """Hold the study's lock: no other process reads or writes its queue inside this block.

    The transactions of the database are not enough: between reading what is known and writing what is suggested lies
    a fit of seconds, in which a second worker would suggest the same point. On one machine it is a file lock
    beside the study's file, on PostgreSQL a lock in a separate transaction. Both end with the process.

    Yields:
        A check to call right before writing what was computed.

    Raises:
        sqlalchemy.exc.DBAPIError: from that call, if the connection that holds the lock broke.
    """
    storage = backend(study)
    file = database_file(storage)
    if file is None:
        with _held_by_server(storage, storage.get_study_name_from_id(study._study_id)) as check_lock:
            yield check_lock
    else:
        with FileLock(beside(file, "queue"), poll_interval=POLL):
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
def _held_by_server(storage: RDBStorage, name: str) -> Iterator[Callable[[], None]]:
    key = int.from_bytes(hashlib.sha256(f"bayes-merger {name}".encode()).digest()[:8], "big", signed=True)
    with storage.engine.connect() as connection:
        # The transaction does nothing but hold the lock; it must not be ended for being idle.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        taken = sqlalchemy.text("SELECT pg_try_advisory_xact_lock(:key)")
        while not connection.execute(taken, {"key": key}).scalar():
            time.sleep(POLL)

        def check_lock() -> None:
            connection.exec_driver_sql("SELECT 1")

        yield check_lock
