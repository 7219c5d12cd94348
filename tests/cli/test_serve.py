"""``serve`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.cli import main


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--port", "70000"], "web.port: 70000 is no port"),
        (["--host", "no.such.host.invalid"], "web.host: 'no.such.host.invalid' is no address of this machine"),
        (["study"], "unrecognized arguments: study; see  bayes-merger serve --help"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    typed: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--no-browser", "--runs", str(tmp_path), *typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
