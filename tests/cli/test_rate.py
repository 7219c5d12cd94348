"""The command ``rate``, and the page beside a run."""

from __future__ import annotations

import os
import pty
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from bayes_merger.cli.seat import seated
from bayes_merger.errors import ConfigError
from bayes_merger.testing.progress import RecordingReporter
from tests.command_line import refused
from tests.processes import Process, environment, program
from tests.web.studies import a_study


def test_what_cannot_be_rated_is_told_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "there are no studies" in refused(capsys, "rate", "nothing", "--runs", str(tmp_path))
    assert "--port" in refused(capsys, "rate", "x", "--port", "high")
    a_study(tmp_path)
    assert "did you mean study?" in refused(capsys, "rate", "studi", f"runs={tmp_path}")
    line = refused(capsys, "rate", "study", "--runs", str(tmp_path), "--host", "192.0.2.77", "--no-browser")
    assert "web.host: cannot listen at 192.0.2.77" in line


def test_in_the_terminal_the_page_is_told_and_whoever_goes_away_is_told_how_to_go_on(tmp_path: Path) -> None:
    a_study(tmp_path)
    command = ("rate", "study", "--terminal", "--runs", str(tmp_path))
    variables = {**environment(), "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}
    person, terminal = pty.openpty()
    with Process(program, *command, variables=variables, stdin=terminal) as asked:
        said = ""
        while "ssh -L" not in said and (line := asked.stdout.readline()):
            said += line
        os.write(person, b"7\nq\n")
        errors = asked.stderr.read()
    os.close(person)
    os.close(terminal)
    assert "http://127.0.0.1:" in said
    assert "@192.0.2.2" in said
    assert asked.returncode == 3
    assert f"every rating so far is kept; go on with  bayes-merger rate study runs={tmp_path} --terminal" in errors


def test_the_settings_of_the_page_are_not_the_studys() -> None:
    _, rest = seated(["model_a=A", "web.host=0.0.0.0", "n_iters=3", "web.port=9000"])
    assert rest == ["model_a=A", "n_iters=3"]
    with pytest.raises(ConfigError, match=r"web\.port: 'high' is no port"):
        seated(["web.port=high"])


def answers(link: str) -> bool:
    try:
        with urllib.request.urlopen(link, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def test_the_page_of_a_run_lives_as_long_as_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 51000 192.0.2.9 22")  # so no browser opens
    folder, _ = a_study(tmp_path)
    seating, _ = seated([])
    notes = RecordingReporter()
    with seating(folder, notes):
        said = ""
        while said.count("\n") < 2:
            assert notes.lines == []
            time.sleep(0.1)
            said += capsys.readouterr().out
        link, tunnel = said.splitlines()
        assert "ssh -L" in tunnel
        assert answers(link.removeprefix("rate: "))  # as soon as it is told
    assert not answers(link.removeprefix("rate: "))
    assert notes.lines == []  # the log is handed on with the study, and the link is the key
