"""How a run is steered from outside while it goes on, and what it says of itself: two small files in its folder.

``wish.json`` says what the run is to do; it looks there between two trials and between two steps of drawing.
``status.json`` says what it does. Both count only while a process holds the study's lock, and whoever takes the lock
removes what a former run has left, so nothing that is killed leaves anything behind that counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bayes_merger.atomic import put_in_place
from bayes_merger.errors import ConfigError, StorageError, trouble
from bayes_merger.plain_json import parse_json
from bayes_merger.run.folder import RunFolder

GO_ON, PAUSE, STOP, STOP_NOW = WISHES = ("go on", "pause", "stop", "stop now")

STATES = {PAUSE: "pausing", STOP: "stopping", STOP_NOW: "stopping"}
"""Wish -> the state of a run that has not yet come to it."""

WAITING = "waiting"
"""The state of a run that waits its turn; see :mod:`bayes_merger.run.turns`."""

PACE = 0.2
"""Seconds between two looks for a wish, and between two reports of one step's progress."""

LARGEST = 16 << 10
"""Bytes of either file."""


def wish_of(folder: RunFolder) -> str:
    """What a run is asked to do; what cannot be read asks for nothing."""
    wish = read_file(folder.wish).get("wish")
    return wish if wish in WISHES else GO_ON


def steps_of(folder: RunFolder) -> list[dict[str, Any]]:
    """What a run does, a step for each of its workers; empty where none goes on."""
    steps = read_file(folder.status).get("steps") if folder.is_running else None
    return [_step(step) for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def stage_of(folder: RunFolder) -> dict[str, Any] | None:
    """The part of a run that follows its trials, as :meth:`ProgressReporter.budget` tells it; None before."""
    stage = read_file(folder.status).get("stage") if folder.is_running else None
    if not isinstance(stage, dict):
        return None
    return {"of": _text(stage, "of"), "about": _text(stage, "about"), **_how_far(stage)}


def run_state(folder: RunFolder) -> str:
    """``running``, ``waiting``, ``pausing``, ``paused`` or ``stopping``; empty where no process holds the study."""
    if not folder.is_running:
        return ""
    wish = wish_of(folder)
    if wish in (GO_ON, PAUSE) and read_file(folder.ticket):
        return WAITING if wish == GO_ON else "paused"  # it draws nothing now, and will not when its turn comes
    steps = steps_of(folder) if wish == PAUSE else []
    if steps and all(step["text"] in ("paused", "stopped") for step in steps):
        return "paused"
    return STATES.get(wish, "running")


def ask(folder: RunFolder, wish: str) -> None:
    """Ask a run for something; see :mod:`bayes_merger.run.steering` for what makes sense when.

    Raises:
        StorageError: its folder cannot be written.
    """
    assert wish in WISHES
    try:
        replace_file(folder.wish, {"wish": wish})
    except OSError as error:
        raise StorageError(f"study '{folder.name}': cannot be asked to {wish}: {trouble(error) or error}") from error


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    return {"worker": _text(step, "worker"), "text": _text(step, "text"), **_how_far(step)}


def _text(said: Mapping[str, Any], name: str) -> str:
    return str(said.get(name, ""))


def _how_far(said: Mapping[str, Any]) -> dict[str, int]:
    return {name: max(value, 0) if type(value := said.get(name)) is int else 0 for name in ("done", "total")}


def read_file(path: Path) -> dict[str, Any]:
    """What such a small file says; nothing, if it cannot be read."""
    with suppress(OSError, ValueError, ConfigError), path.open("rb") as file:
        found = parse_json(file.read(LARGEST).decode())
        return found if isinstance(found, dict) else {}
    return {}


def replace_file(path: Path, data: Mapping[str, Any]) -> None:
    """Write such a small file; no flush, since after a power cut it counts for nothing."""
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    new.write_text(json.dumps(data), encoding="utf-8")
    put_in_place(new, path)
