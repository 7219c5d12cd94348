"""Where studies are kept: one SQLite file, or a database by its address."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from bayes_merger.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 60
"""Seconds to wait for another process's transaction."""


def open_storage(where: str | Path, *, create: bool = True) -> RDBStorage:
    """The storage in a file, or at an address with ``://`` in it.

    A SQLite file is opened so that several processes may share it on one machine: writers announce themselves before
    they read (SQLite ignores the row locks Optuna's queue relies on, and would hand out a trial twice), and what was
    told is on the disk before the call returns. Not for network file systems.

    Args:
        where: a path, or an address such as ``postgresql://...``.
        create: make the file, and its folder, if there is none.

    Raises:
        ConfigError: if it cannot be opened.
    """
    optuna.logging.disable_default_handler()
    if "://" in str(where):
        address = str(where)
        is_file = address.startswith("sqlite:///") and ":memory:" not in address
    else:
        path = Path(where)
        if not create and not path.is_file():
            raise ConfigError(f"{path}: no study here; name the file that `bayes-merger run` made")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: its folder cannot be made ({error.strerror}); choose another") from error
        address = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
        is_file = True
    try:
        storage = RDBStorage(address, engine_kwargs={"connect_args": {"timeout": PATIENCE}} if is_file else None)
        if is_file:
            _share(storage.engine)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(f"{where}: not a study's storage ({cause}); choose another file or address") from error
    return storage


@contextmanager
def sole_worker(storage: RDBStorage) -> Iterator[None]:
    """Keep other processes from working on the same file meanwhile; healing would take their trials for dead.

    The operating system lets go when the process ends, however it ends. Reading needs no lock. Does nothing for a
    database behind an address, nor on Windows.

    Raises:
        ConfigError: if another process works on it already.
    """
    database = storage.engine.url.database
    if fcntl is None or storage.engine.dialect.name != "sqlite" or not database or database == ":memory:":
        yield
        return
    with Path(f"{database}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{database}: another process works on it; wait for it, or end it first") from None
        yield


def _share(engine: sqlalchemy.Engine) -> None:
    """Let the engine's connections lock before they read, and write through to the disk."""

    def connected(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # or Python's driver begins transactions by itself, too late
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {PATIENCE * 1000}"):
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", connected)
    sqlalchemy.event.listen(engine, "begin", begun)
    engine.dispose()  # the connection that made the tables knows nothing of this yet
    with engine.connect():
        pass  # a file that cannot be shared is found now
