"""Looking at a study's database without changing a byte of it, or of anything beside it.

A study may lie on a read-only disk, belong to somebody else, or be another program's file that somebody named by
mistake. So whoever only looks asks first what the file is, makes no table, switches no journal and takes no lock that
a reader does not need.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from bayes_merger.errors import ConfigError, StorageError, one_line, trouble

T = TypeVar("T")

TABLES = {"studies", "study_user_attributes", "trials", "trial_user_attributes", "version_info", "alembic_version"}
"""Some of the tables that Optuna makes; a file without them holds no study."""


LOCKED = 10
"""Seconds without a file's lock after which it is said that another program holds it."""

PATIENT = 600
"""Seconds to wait for another program, or for a server."""

Told = Callable[[str], None]
"""Told, in a line for people, what is waited for."""


def when_unlocked(action: Callable[[], T], waiting: Told) -> T:
    """An action that needs a file's lock, tried again while another program holds it."""
    for attempt in range(PATIENT // LOCKED):
        try:
            return action()
        except Exception as error:  # the driver's own, or SQLAlchemy's around it
            if "database is locked" not in str(error):
                raise
            if attempt == 0:
                waiting(f"another program holds the study's file (it is locked); waiting for {PATIENT // 60} minutes")
    return action()


NO_STUDY = "name the file that `bayes-merger run` made"


def check_is_study(path: Path, waiting: Told) -> None:
    """Refuse a file that another program made, or that no study was put into yet; nothing is changed.

    Raises:
        ConfigError: it is not a study's.
        StorageError: it cannot be read.
    """
    found = tables_of(path, waiting)
    if found >= TABLES:
        return
    other = "another program's database" if found else "an empty file"
    raise ConfigError(f"{path}: not a study's storage ({other}); choose another file")


def tables_of(path: Path, waiting: Told) -> set[str]:
    """The names of the tables in an SQLite file.

    Raises:
        ConfigError: it is no SQLite file.
        StorageError: it cannot be read.
    """
    try:
        connect = reader(path, waiting)  # to be kept: a copy that is read lives as long
        with closing(connect()) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise StorageError(f"{path}: {trouble(error)}") from error
        raise ConfigError(f"{path}: not a study's storage ({one_line(error)}); choose another file") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no study here; {NO_STUDY}") from error
    except OSError as error:
        raise StorageError(f"{path}: {trouble(error) or error}") from error


def reader(path: Path, waiting: Told) -> Callable[[], sqlite3.Connection]:
    """A function that opens a SQLite file for reading.

    A file in WAL mode wants two files beside it even to be read. Where there are none, nobody writes, and it is read
    as it stands; where they cannot be used, because the folder may not be written, a copy is read.

    Raises:
        OSError: the file cannot be read, or not copied.
    """
    # SQLite's own words for a missing permission do not tell it from a missing file. To open and close the file here
    # would drop the locks that other connections of this process have on it, as POSIX wants.
    path.stat()
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not _beside(path, "-wal").exists() or _beside(path, "-shm").exists():
        try:
            when_unlocked(lambda: _probe(path), waiting)
            return lambda: _open(path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
    copy = _Copy(path)
    return lambda: _open(copy.path, "rw")


def _probe(path: Path) -> None:
    with closing(_open(path)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


class _Copy:
    """A SQLite file with what belongs to it, in a folder that vanishes with this object."""

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bayes-merger-")
        self.path = Path(self._folder.name) / "study.db"
        for end in ("", "-wal", "-journal"):
            if _beside(path, end).is_file():
                shutil.copyfile(_beside(path, end), _beside(self.path, end))


def _open(path: Path, mode: str = "") -> sqlite3.Connection:
    quiet = not mode and not any(_beside(path, end).exists() for end in ("-wal", "-journal"))
    address = f"file:{quote(str(path.absolute()))}?mode={mode or 'ro'}" + ("&immutable=1" if quiet else "")
    return sqlite3.connect(address, uri=True, timeout=LOCKED, check_same_thread=False)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
