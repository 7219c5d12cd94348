"""Looking at a database changes no byte of it, makes nothing beside it, and works where nothing can be written."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.search.study.reading import when_unlocked
from bayes_merger.search.study.storage import backend, open_storage, put_to_rest
from tests.run.fake_run import make_setup, searched


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def resting(tmp_path: Path) -> Path:
    """A study as a run leaves it at its end."""
    study, _ = searched(make_setup(init_points=3, n_iters=1), tmp_path / "s")
    put_to_rest(backend(study))
    return tmp_path / "s"


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_another_program_s_file_is_refused_and_stays_as_it_is(tmp_path: Path, journal: str) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute("CREATE TABLE bookmarks (address TEXT)")
    before = bytes_of(tmp_path)
    for reading, create in ((True, False), (False, False), (False, True)):
        with pytest.raises(ConfigError, match="another program's database"):
            open_storage(tmp_path / "other.db", reading=reading, create=create)
    assert bytes_of(tmp_path) == before


def test_a_study_is_read_without_a_trace(resting: Path) -> None:
    before = bytes_of(resting)
    assert len(load(RunFolder(resting)).get_trials()) == 4
    assert bytes_of(resting) == before


def test_a_run_leaves_one_file_that_is_complete_by_itself(resting: Path) -> None:
    assert not list(resting.glob("study.db-wal"))
    assert (resting / "study.db").read_bytes()[18:20] == b"\x01\x01"  # no WAL mode: any program reads it anywhere


def test_the_archive_of_a_killed_run_is_read_with_what_was_not_yet_in_its_file(resting: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(resting / "study.db")) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        with writer:
            writer.execute("UPDATE studies SET study_name = 'later'")
        archive = tmp_path / "archive"
        archive.mkdir()
        for end in ("", "-wal"):
            shutil.copyfile(resting / f"study.db{end}", archive / f"study.db{end}")
    before = bytes_of(archive)
    assert open_storage(archive / "study.db", reading=True).get_all_studies()[0].study_name == "later"
    assert bytes_of(archive) == before


def test_a_study_that_is_read_cannot_be_written(resting: Path) -> None:
    with pytest.raises(Exception, match="readonly database"):
        load(RunFolder(resting)).set_user_attr("a", 1)


def test_an_empty_file_holds_no_study(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    with pytest.raises(ConfigError, match="an empty file"):
        open_storage(tmp_path / "study.db", reading=True)
    assert bytes_of(tmp_path) == {"study.db": b""}


def test_a_lock_is_waited_for_and_said_once() -> None:
    answers = iter([sqlite3.OperationalError("database is locked"), sqlite3.OperationalError("database is locked"), 7])
    said: list[str] = []

    def action() -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert when_unlocked(action, said.append) == 7
    assert said == ["another program holds the study's file (it is locked); waiting for 10 minutes"]


def test_a_study_is_what_lies_in_its_folder(resting: Path, tmp_path: Path) -> None:
    shutil.copytree(resting, tmp_path / "s-backup")
    resting.rename(tmp_path / "portraits")
    for name in ("portraits", "s-backup"):
        assert load(RunFolder(tmp_path / name)).study_name == name


def test_a_folder_that_was_renamed_still_says_which_study_of_a_database_it_is(resting: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pointing", str(tmp_path / "shared.db"))
    shutil.copyfile(resting / "study.db", tmp_path / "shared.db")
    folder.path.mkdir()
    (folder.pointer).write_text(f"{tmp_path / 'shared.db'}\ns\n")
    assert RunFolder(folder.path).called == "s"
    assert load(RunFolder(folder.path)).study_name == "pointing"
