"""Where studies are kept: one SQLite file, or a database by its address."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from bayes_merger.errors import ConfigError

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
