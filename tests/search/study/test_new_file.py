"""A new study's file is what Optuna makes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from bayes_merger.search.study.new_file import make_tables
from bayes_merger.search.study.storage import open_storage


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_it_is_what_optuna_makes(tmp_path: Path) -> None:
    RDBStorage(f"sqlite:///{tmp_path}/theirs.db").engine.dispose()
    make_tables(tmp_path / "ours.db", pytest.fail)
    assert contents(tmp_path / "ours.db") == contents(tmp_path / "theirs.db")
    assert any("alembic_version" in line and line.startswith("INSERT") for line in contents(tmp_path / "ours.db"))


def test_a_file_that_another_process_has_made_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.executescript("CREATE TABLE studies (study_id INTEGER); INSERT INTO studies VALUES (7);")
    before = contents(tmp_path / "study.db")
    make_tables(tmp_path / "study.db", pytest.fail)
    assert contents(tmp_path / "study.db") == before


def test_a_file_over_which_a_process_died_gets_them_after_all(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        connection = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE studies AS SELECT randomblob(200000)")
        os._exit(0)  # half of it is in the file, and what was there before beside it
    os.waitpid(child, 0)
    assert (tmp_path / "study.db-journal").exists()
    assert (tmp_path / "study.db").stat().st_size > 100_000
    assert open_storage(tmp_path / "study.db").get_all_studies() == []
