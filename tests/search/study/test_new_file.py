"""A new study's file is what Optuna makes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from bayes_merger.search.study.new_file import make_tables


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
