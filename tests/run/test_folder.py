from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder, check_name, find_study, is_begun, load, slug, studies


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My Model (v1) [abc]", "My-Model-v1-abc"),
        ("a=b", "a-b"),
        ("../..", "study"),
        ("ok_1.5", "ok_1.5"),
        ("", "study"),
    ],
)
def test_a_slug_is_safe_as_a_folder(text: str, name: str) -> None:
    assert slug(text) == name


def test_a_name_that_cannot_be_a_folder_is_refused_with_one_that_can() -> None:
    assert check_name("fine-1") == "fine-1"
    with pytest.raises(ConfigError, match="name=a-b"):
        check_name("a/b")
    with pytest.raises(ConfigError, match="name: 'Con' is a device on Windows; try name=Con-1"):
        check_name("Con")
    assert check_name("console") == "console"


def test_a_database_that_is_not_there_yet_may_be_made(tmp_path: Path) -> None:
    assert not is_begun(RunFolder(tmp_path / "x", str(tmp_path / "new.db")))
    with pytest.raises(ConfigError, match=r"new\.db: no study here; name the file that `bayes-merger run` made"):
        load(RunFolder(tmp_path / "x", str(tmp_path / "new.db")))


def test_studies_are_listed_with_the_last_one_first_and_found_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "no-database")):
        (tmp_path / name).mkdir()
        if name != "no-database":
            database = tmp_path / name / "study.db"
            database.touch()
            import os

            os.utime(database, (number, number))
    assert [folder.name for folder in studies(tmp_path)] == ["new", "old"]
    assert find_study(tmp_path, "old") == RunFolder(tmp_path / "old")
    with pytest.raises(ConfigError, match="no study 'odl'; did you mean old"):
        find_study(tmp_path, "odl")
    with pytest.raises(ConfigError, match=r"no study .\.\./x"):
        find_study(tmp_path, "../x")


def test_a_study_is_found_by_its_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/x", "archive/v1.5"):
        Path(folder).mkdir(parents=True)
        Path(folder, "study.db").touch()
    runs = Path("runs")
    for typed in ("x/", "runs/x", "./runs/x/", f"{tmp_path}/runs/x", "runs/x/study.db"):
        found = find_study(runs, typed)
        assert (found.path.resolve(), found.name) == (tmp_path / "runs" / "x", "x"), typed
    assert find_study(runs, "archive/v1.5").path == Path("archive/v1.5")
    for typed in ("runs/y", "runs/", "/", "..", "./", "archive/v1.5/none/"):
        with pytest.raises(ConfigError, match="no study"):
            find_study(runs, typed)


def test_a_folder_without_a_study_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(
        ConfigError, match=r"no study 'x'; .*x has no study\.db, which is the study itself; there are no"
    ):
        find_study(tmp_path, "x")


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    with folder.locked(), pytest.raises(ConfigError, match="another bayes-merger"), RunFolder(folder.path).locked():
        pass
    with folder.locked():
        pass
