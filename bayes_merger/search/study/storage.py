"""Where studies are kept: one SQLite file, or a PostgreSQL database by its address."""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study

from bayes_merger.errors import ConfigError, StorageError, trouble
from bayes_merger.search.study.new_file import make_tables
from bayes_merger.search.study.quick import QuickStorage
from bayes_merger.search.study.reading import (
    LOCKED,
    NO_STUDY,
    PATIENT,
    check_is_study,
    reader,
    tables_of,
    when_unlocked,
)

log = logging.getLogger("bayes_merger")

T = TypeVar("T")

PATIENCE = 60
"""Seconds to wait for another process's transaction while a file is opened."""

PAUSE = 2.0
"""Seconds between two attempts to reach a server."""

BEAT = 30
"""Seconds between two heartbeats of a worker."""

GRACE = PATIENT
"""Seconds without a heartbeat after which a worker on another machine is considered dead."""

LINE = 60
"""Seconds to wait for another process's transaction on a server; it takes thousandths of one."""

SECRET = ("password", "passfile", "sslpassword", "sslkey")

SERVER: dict[str, Any] = {
    "connect_timeout": 10,
    # A worker whose machine lost power must not hold the queue for the two hours of the system's default.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "options": f"-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
    f" -c lock_timeout={LINE}s",
}

NOT_OPENED = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    sqlite3.Error,
    OSError,
    ImportError,
    RuntimeError,
    AssertionError,
)
"""What opening a storage that is none may end with."""

_KNOWN: set[str] = set()
"""Of Optuna's tables, the revision that this process has found to be the installed Optuna's."""

PASSING = {
    r"too many (clients|connections)|connection slots are reserved|no more connections allowed": (
        "the server has no connection free; raise max_connections"
    ),
    r"database system is (starting up|shutting down|not yet|not accept|in recovery)": "the server is being started",
}
"""What a server says that is there but has no time for us -> what is wrong."""


def open_storage(
    where: str | Path,
    *,
    create: bool = True,
    reading: bool = False,
    waiting: Callable[[str], None] | None = None,
    kind: type[RDBStorage] = QuickStorage,
) -> RDBStorage:
    """The storage in a file, or at an address that contains ``://``.

    A SQLite file is opened so that several processes may share it on one machine: writers take the lock before
    they read (SQLite ignores the row locks Optuna's queue relies on, and would hand out a trial twice), and each
    write is on the disk before the call returns. Not for network file systems: workers on several machines need
    PostgreSQL.

    Args:
        where: a path, or an address such as ``postgresql://user@host/database``. A password need not be in it:
            PostgreSQL's own ``PGPASSWORD`` and ``~/.pgpass`` are used.
        create: make the file, and its folder, or the tables, if they do not exist.
        reading: change nothing, not even a file beside it.
        waiting: told, once each time, that another program holds the file or that the server cannot be reached.
        kind: of storage to make.

    Raises:
        ConfigError: if it cannot be opened. No password is ever part of the text.
        StorageError: if the file may not be read or written, or the server has no connection free for ten minutes.
    """
    optuna.logging.disable_default_handler()
    create = create and not reading
    try:
        address = _address(where, create)
    except OSError as error:
        raise StorageError(f"{where}: {trouble(error) or error}") from error
    is_file = address.get_backend_name() == "sqlite"
    # Optuna fills in {SCHEMA_VERSION}, so our braces are escaped.
    text = address.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        if is_file:
            return _open_file(kind, Path(str(address.database)), text, create, reading, waiting or log.warning)
        return _open_server(kind, text, create, reading, waiting or log.warning)
    except NOT_OPENED as error:
        raise _refused(error, address, str(where)) from (error if is_file else None)  # it may contain a password


def redacted(address: str | Path) -> str:
    """A storage's name without its password: what may be shown and kept.

    >>> redacted("postgresql://ann:secret@db.example/merges")
    'postgresql://ann@db.example/merges'
    """
    text = str(address)
    if "://" not in text:
        return text
    try:
        url = sqlalchemy.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return f"{text.partition('://')[0]}://..."  # whatever it is, it may contain a password
    if _is_torn(url):
        return f"{url.drivername}://..."
    # The password is removed, not masked: what is left is still an address.
    plain = sqlalchemy.URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, url.query
    ).difference_update_query(SECRET)
    return plain.render_as_string(hide_password=False)


def _is_torn(url: sqlalchemy.URL) -> bool:
    """Whether a password with an ``@`` has become part of what follows it."""
    return "@" in f"{url.host}{url.database}" and url.password is not None


def is_address(where: str | Path) -> bool:
    """Whether it is a database's address, not a file's path."""
    return "://" in str(where)


def file_at(where: str) -> str | None:
    """The SQLite file that is meant, whether by its path or by an address; None if it is a server."""
    if not is_address(where):
        return where
    try:
        url = sqlalchemy.make_url(where)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    return url.database if url.get_backend_name() == "sqlite" and url.database != ":memory:" else None


def underlying(study: Study) -> BaseStorage:
    """What a study is stored in; Optuna wraps a database in a cache."""
    storage: Any = study._storage
    found: BaseStorage = getattr(storage, "_backend", storage)
    return found


def backend(study: Study) -> RDBStorage:
    """The database under a study."""
    found = underlying(study)
    assert isinstance(found, RDBStorage)
    return found


def rest(study: Study) -> None:
    """Close a server's connections that are not in use: it has some hundred for all of its clients."""
    storage = backend(study)
    if database_file(storage) is None:
        storage.engine.dispose()


def database_file(storage: RDBStorage) -> Path | None:
    """The file that a storage is; ``None`` if it is a server."""
    url = storage.engine.url
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _address(where: str | Path, create: bool) -> sqlalchemy.URL:
    if not is_address(where):
        return _file(Path(where), create)
    try:
        url = sqlalchemy.make_url(str(where))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(
            f"storage: {redacted(where)} is not an address; use  postgresql://user@host/database  or a file"
        ) from None
    if _is_torn(url):
        raise ConfigError(f"storage: {redacted(where)} has two @; in a password it is written %40, or give PGPASSWORD")
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database and url.database != ":memory:":
        return _file(Path(url.database), create)
    if kind not in ("postgresql", "postgres"):
        raise ConfigError(
            f"storage: {redacted(where)} is not a study's storage; "
            "give  postgresql://user@host/database  or the path of an SQLite file"
        )
    return url.set(drivername="postgresql+psycopg")


def _file(path: Path, create: bool) -> sqlalchemy.URL:
    if not create and not path.is_file():
        raise ConfigError(f"{path}: no study here; {NO_STUDY}")
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: its folder cannot be made ({error.strerror}); choose another") from error
    return sqlalchemy.URL.create("sqlite", database=str(path))


def _open_file(
    kind: type[RDBStorage], path: Path, address: str, create: bool, reading: bool, waiting: Callable[[str], None]
) -> RDBStorage:
    """A SQLite file, once it is known to be a study's or nobody's."""
    if create and not (path.is_file() and path.stat().st_size and tables_of(path, waiting)):
        _KNOWN.add(make_tables(path, waiting))  # as well where a process died over it
    else:
        check_is_study(path, waiting)
    if reading:
        return _made(
            kind, address, {"creator": reader(path, waiting), "poolclass": sqlalchemy.pool.NullPool}, create=False
        )
    storage = _made(kind, address, {"connect_args": {"timeout": PATIENCE}}, create)
    _share(storage.engine, waiting)
    return storage


def _open_server(
    kind: type[RDBStorage], address: str, create: bool, reading: bool, waiting: Callable[[str], None]
) -> RDBStorage:
    """A server's database, once it lets us in."""
    settings = {"connect_args": _server(reading), "pool_pre_ping": True, "pool_size": 1}
    storage = _when_free(lambda: _made(kind, address, settings, create), waiting)
    _await_server(storage.engine, waiting)
    return storage


def _refused(error: Exception, address: sqlalchemy.URL, where: str) -> ConfigError | StorageError:
    """Why a storage could not be opened, in words that contain no password."""
    is_file, shown = address.get_backend_name() == "sqlite", redacted(where)
    if not is_file and isinstance(error, ImportError) and "psycopg" in str(error.__cause__ or error):
        return ConfigError(f"{shown}: PostgreSQL needs psycopg; install it with  pip install 'bayes-merger[postgres]'")
    if said := trouble(error) if is_file else _passing(error):
        return StorageError(f"{shown}: {said}")
    return ConfigError(f"{shown}: not a study's storage ({_cause(error, address)}); choose another file or address")


def _server(reading: bool) -> dict[str, Any]:
    if not reading:
        return SERVER
    return {**SERVER, "options": f"{SERVER['options']} -c default_transaction_read_only=on"}


def _made(kind: type[RDBStorage], text: str, settings: Mapping[str, Any], create: bool) -> RDBStorage:
    def attempt(checks: bool) -> RDBStorage:
        return kind(
            text,
            engine_kwargs=dict(settings),
            heartbeat_interval=BEAT,
            grace_period=GRACE,
            skip_table_creation=not create,
            skip_compatibility_check=not checks,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are, since 2.9
        try:
            storage = attempt(checks=False)
        except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
            if not create or text.startswith("sqlite"):
                raise  # else: two processes made the tables at once, and the other one won
            storage = attempt(checks=False)
        return storage if _is_this_optunas(storage) else attempt(checks=True)  # which says what is wrong


def _is_this_optunas(storage: RDBStorage) -> bool:
    """Whether the tables are as this version of Optuna makes them, for which it reads its migrations: once."""
    revision = storage.get_current_version()
    if revision not in _KNOWN and revision == storage.get_head_version():
        _KNOWN.add(revision)
    return revision in _KNOWN


def _cause(error: Exception, address: sqlalchemy.URL) -> str:
    cause = str(error.__cause__ or error).splitlines()[0]
    if address.password:
        cause = cause.replace(str(address.password), "***")
    if "no password supplied" in cause:
        return "no password; give it in PGPASSWORD or ~/.pgpass"
    return re.sub(r"^\(\w+\.\w+\) ", "", cause)


def _share(engine: sqlalchemy.Engine, waiting: Callable[[str], None]) -> None:
    """Let the engine's connections lock before they read, and write through to the disk."""

    def connected(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # otherwise Python's driver begins transactions itself, too late
        for pragma in (f"busy_timeout = {LOCKED * 1000}", "journal_mode = WAL", "synchronous = FULL"):
            when_unlocked(lambda pragma=pragma: connection.execute(f"PRAGMA {pragma}"), waiting)  # type: ignore[misc]

    def begun(connection: Any) -> None:
        when_unlocked(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), waiting)

    sqlalchemy.event.listen(engine, "connect", connected)
    sqlalchemy.event.listen(engine, "begin", begun)
    engine.dispose()  # the connection that made the tables does not have these settings yet
    with engine.connect():
        pass  # a file that cannot be shared is found now


def _passing(error: BaseException) -> str | None:
    """What is wrong with a server that is there but does not let us in yet."""
    text = str(error.__cause__ or error)
    return next((said for pattern, said in PASSING.items() if re.search(pattern, text)), None)


def _when_free(action: Callable[[], T], waiting: Callable[[str], None]) -> T:
    """An action on a server, tried again for ten minutes while it does not let us in; not if there is no server."""
    deadline, told = time.monotonic() + GRACE, False
    while True:
        try:
            return action()
        except (sqlalchemy.exc.OperationalError, optuna.exceptions.StorageInternalError) as error:
            said = _passing(error)
            if said is None or time.monotonic() >= deadline:
                raise
            if not told:
                waiting(f"{said}; waiting for {GRACE // 60} minutes")
            told = True
            time.sleep(PAUSE)


def _await_server(engine: sqlalchemy.Engine, waiting: Callable[[str], None]) -> None:
    """Let each transaction that begins wait for a server that cannot be reached; the first one does not."""

    def connect(dialect: Any, record: object, arguments: Any, settings: Any) -> Any:
        deadline, told = time.monotonic() + GRACE, False
        while True:
            try:
                return dialect.connect(*arguments, **settings)
            except dialect.loaded_dbapi.OperationalError as error:
                if threading.current_thread() is not threading.main_thread() or time.monotonic() >= deadline:
                    raise  # a heartbeat: the next one may succeed, and nobody should wait for this one
                if not told:
                    said = _passing(error) or "the database cannot be reached"
                    waiting(f"{said}; waiting for {GRACE // 60} minutes")
                told = True
                time.sleep(PAUSE)

    sqlalchemy.event.listen(engine, "do_connect", connect)


def put_to_rest(storage: RDBStorage) -> None:
    """Leave one file that is complete by itself, as archives and read-only disks need it; others may still use it."""
    file = database_file(storage)
    storage.engine.dispose()
    if file is None or not file.is_file():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(file, timeout=0)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # refused while another process has it open
