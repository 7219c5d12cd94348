"""Notifications as they are asked for: whose business the address is, and what a terminal does by itself."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from bayes_merger.cli import main
from bayes_merger.cli.notifying import notified
from bayes_merger.cli.terminal import BarReporter, watching
from bayes_merger.errors import BayesMergerError, Interrupted
from tests.run.test_notify import listening, report
from tests.web.api.outside import begun


def test_the_address_is_no_setting_of_the_study(tmp_path: Path) -> None:
    with listening() as (address, heard):
        folder = begun(tmp_path, "mine", f"notify.webhook={address}")
    assert heard == []  # it was begun, and nothing was drawn
    assert folder.database.is_file()
    for path in folder.path.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path


def test_the_address_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notified(["seed=1"]) == (watching, ["seed=1"])
    with listening() as (address, heard):
        monkeypatch.setenv("BAYES_MERGER_WEBHOOK", address)
        reporting, rest = notified(["seed=1"])
        with reporting(tmp_path / "log.txt") as progress:
            progress.trial(report(1, 5.0, improved=True))
        assert notified(["notify.webhook=null"])[0] is watching
    assert rest == ["seed=1"]
    assert [one["event"] for one in heard] == ["best", "done"]
    assert heard[0]["study"] == tmp_path.name


@pytest.mark.parametrize("command", [["run"], ["run", "--multirun"], ["resume", "x"], ["fork", "x", "y"]])
def test_a_wrong_address_ends_every_command_at_once(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "notify.webhook=ntfy.sh/mine"]) == 2
    assert capsys.readouterr().err == (
        "error: notify.webhook: 'ntfy.sh/mine' is no address; give one like  https://ntfy.example/my-topic\n"
    )


BELL, TITLE = "\a", "\x1b]0;"


def screen(log: Path, error: BaseException | None = None) -> str:
    text = io.StringIO()
    with suppress(BayesMergerError), BarReporter(log, Console(file=text, force_terminal=True)) as progress:
        progress.trial(report(3, 5.0))
        if error:
            raise error
    return text.getvalue()


def test_a_terminal_has_the_progress_in_its_title_and_rings_at_the_end(tmp_path: Path) -> None:
    log = tmp_path / "eye" / "log.txt"
    log.parent.mkdir()
    shown = screen(log)
    assert f"{TITLE}4/20 eye{BELL}" in shown
    assert shown.endswith(f"{TITLE}eye{BELL}{BELL}")
    assert screen(log, BayesMergerError("full disk")).endswith(f"{TITLE}eye{BELL}{BELL}")
    assert not screen(log, Interrupted("stopped")).endswith(BELL * 2)


def lines_at(width: int, *notes: str) -> list[str]:
    text = io.StringIO()
    reporter = BarReporter(Path("/nowhere/log.txt"), Console(file=text, width=width))
    for note in notes:
        reporter.note(note)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_what_is_said_is_broken_between_words_and_commands_stay_whole() -> None:
    assert lines_at(30, "the first trial will tell how long it takes") == [
        "the first trial will tell how", "long it takes"
    ]  # fmt: skip
    command = "go on with  bayes-merger resume portraits n_iters=100"
    assert lines_at(30, command) == [command]


def test_the_bars_leave_room_for_the_sign_of_ctrl_c(tmp_path: Path) -> None:
    text = io.StringIO()
    with BarReporter(tmp_path / "log.txt", Console(file=text, force_terminal=True, width=60)) as progress:
        progress.budget(4, 20)
        progress.step("drawing", 3, 14)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\].*?\x07", "", text.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line.startswith(("study", "drawing"))]
    assert max(len(line) for line in lines) <= 57


def test_a_terminal_rings_once_when_a_person_is_waited_for(tmp_path: Path) -> None:
    text = io.StringIO()
    with BarReporter(tmp_path / "log.txt", Console(file=text, force_terminal=True)) as progress:
        for step in ("drawing", "waiting for your ratings of 1 trial", "waiting for your ratings of 2 trials"):
            progress.step(step)
        assert text.getvalue().count(BELL) == 1
