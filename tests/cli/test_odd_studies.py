"""Studies that others have sent, whose parts are of the right kind and say odd things all the same."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.cli import main
from bayes_merger.testing.studies import make_study
from tests.web.studies import put_together

COMMANDS = ("show s", "show s --json", "show s --csv", "show s --timing", "report s", "compare s 0 1", "history s",
            "history s --blink", "export s", "export s csv")  # fmt: skip
EVIL = "\x1b[2J[red]\n<script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("made") / "s", 14, drawn=4, payloads={"p": "a fox"})
    put_together(folder)
    return folder.path


def change(folder: Path, table: str, key: str, changed: Callable[[Any], Any]) -> None:
    """Change an attribute of the study, or of all trials."""
    with closing(sqlite3.connect(folder / "study.db")) as database, database:
        rows = database.execute(f"SELECT rowid, value_json FROM {table} WHERE key = ?", (key,)).fetchall()
        assert rows
        for row, text in rows:
            new = json.dumps(changed(json.loads(text)))
            database.execute(f"UPDATE {table} SET value_json = ? WHERE rowid = ?", (new, row))


def of_study(key: str, changed: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder, "study_user_attributes", key, changed)


def of_trials(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, "trial_user_attributes", key, lambda _: value)


def pictures_that_lead_to_themselves(folder: Path) -> None:
    for path in folder.rglob("images/*/*.png"):
        path.unlink()
        path.symlink_to(path)


@pytest.mark.parametrize(
    ("oddly", "refused"),
    [
        (pictures_that_lead_to_themselves, ["history s --blink"]),
        (of_trials("images", ["a\0b", "images/" + 5000 * "x" + ".png", "/etc/passwd", ""]), ["history s --blink"]),
        (of_trials("times", {"draw": 0}), []),
        (of_trials("times", {EVIL: 1e8}), []),
        (of_trials("seconds", 0), []),
        (of_trials("phase", EVIL), []),
        (of_trials("scores", [{"scorer": EVIL, "payload": "p", "index": 7, "seed": -(10**40), "value": 1e100}]), []),
        (of_study("recipe", lambda value: value | {"models": {"a": {"path": EVIL, "sha256": EVIL}}}), []),
        (of_study("config", lambda value: value | {"seed": "x"}), COMMANDS),
        (of_study("config", lambda value: value | {"seed": -1}), COMMANDS),
        (of_study("final", lambda value: value | {"images": -5}), []),
    ],
)
def test_an_odd_study_is_shown_or_refused_in_one_line(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    oddly: Callable[[Path], None],
    refused: list[str],
) -> None:
    shutil.copytree(made, tmp_path / "s")
    oddly(tmp_path / "s")
    for command in COMMANDS:
        code = main([*command.split(), "--runs", str(tmp_path)])
        said = capsys.readouterr()
        assert code == (2 if command in refused else 0), (command, said.err)
        assert len(said.err.splitlines()) == (code == 2), said.err
        assert "\x1b[2J" not in said.out + said.err
