"""Commands called in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bayes_merger.cli import main


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What ``plan`` prints as JSON."""
    capsys.readouterr()
    assert main(["plan", *arguments, "--json", "--keys"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that ends with exit code 2; notes may come before it."""
    assert main(list(arguments)) == 2
    *notes, error = capsys.readouterr().err.splitlines(keepends=True)
    assert all(note.startswith("note: ") for note in notes), notes
    assert error.startswith("error: "), error
    return error
