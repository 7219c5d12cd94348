"""Studies that wait for a person; each kind is made once and copied, since a database takes a second to make."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.setup import RunSetup
from tests.run.rating import rated


def a_study(path: Path, *, waiting: int = 1, payloads: int = 2) -> tuple[RunFolder, RunSetup]:
    """As `rated.a_study`, without hidden repeats."""
    folder, setup = _made(waiting, payloads)
    shutil.copytree(folder.path, path / folder.name)
    return RunFolder(path / folder.name), setup


@cache
def _made(waiting: int, payloads: int) -> tuple[RunFolder, RunSetup]:
    place = tempfile.mkdtemp(prefix="bayes-merger-rated-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return rated.a_study(Path(place), waiting=waiting, payloads=payloads, every=0)


def put_together(folder: RunFolder) -> None:
    """All of a study in its one file, so that another can take its place."""
    with closing(sqlite3.connect(folder.database)) as database:
        assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
