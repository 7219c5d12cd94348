"""One run at a time draws on a device: whoever is asked to waits for those that draw there, and for those before it.

A run that waits holds its study already, with a ticket beside it that says since when and for which device. A ticket
counts only while a process holds the study, like all that a run says of itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bayes_merger.errors import Interrupted, UserError
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.control import STOP, STOP_NOW, read_file, replace_file, wish_of
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.outside import is_outside
from bayes_merger.run.progress import ProgressReporter
from bayes_merger.run.stored import is_table

ANY = "auto"
"""A device that may be any."""

QUEUED = "--queue"
"""What asks a command that draws to wait its turn."""

PACE = 1.0
"""Seconds between two looks whether a device is free."""


def wait_for_turn(folder: RunFolder, device: str, progress: ProgressReporter) -> None:
    """Wait until no other run of the same folder of studies draws on a device.

    Args:
        folder: of the study, which this process holds.
        device: see :func:`device_of`.
        progress: told what is waited for.

    Raises:
        Interrupted: the run is asked to stop.
        OSError: the folder cannot be written.
    """
    turn = (time.time(), folder.name)
    replace_file(folder.ticket, {"since": turn[0], "device": device})
    told = ""
    while other := in_the_way(folder, device, turn):
        line = f"waiting for study {other}, which draws on the same device"
        if other != told:
            progress.note(line)
        told = other
        progress.step(line)
        time.sleep(PACE)
        if wish_of(folder) in (STOP, STOP_NOW):
            raise Interrupted("stopped before it began to draw")
    replace_file(folder.ticket, {})  # Windows deletes no file that somebody reads


def waiting(runs: Path) -> list[tuple[RunFolder, str]]:
    """The runs that wait, in their order, and the study that each waits for: empty of one that begins in a moment.

    Args:
        runs: the folder of all studies.
    """
    tickets = {folder: ticket for folder in _folders(runs) if (ticket := _ticket(folder)) and folder.is_running}
    turns = sorted((ticket["since"], folder.name, folder) for folder, ticket in tickets.items())
    return [(one, in_the_way(one, tickets[one]["device"], (since, name))) for since, name, one in turns]


def in_the_way(folder: RunFolder, device: str, turn: tuple[float, str] = (math.inf, "")) -> str:
    """The study that is drawn on a device, or will be before it is this one's turn; empty if there is none.

    Of two that look at the same moment, each sees that the other one holds its study, and one of them the other's turn.

    Args:
        folder: of the study that wants to be drawn.
        device: see :func:`device_of`.
        turn: since when it waits, and its name; by default it comes last.
    """
    for other in _folders(folder.path.parent):
        if other.path == folder.path or not other.is_running:
            continue
        ticket = _ticket(other)
        if ticket and (ticket["since"], other.name) > turn:
            continue
        if collide(device, ticket["device"] if ticket else device_of_study(other)):
            return other.name
    return ""


def _folders(runs: Path) -> list[RunFolder]:
    with suppress(OSError):  # there is no study yet
        return [RunFolder(path) for path in sorted(runs.iterdir())]
    return []


def _ticket(folder: RunFolder) -> Mapping[str, Any]:
    """Of a run that waits; empty of one that draws, or has not waited."""
    found = read_file(folder.ticket)
    return found if is_table(found, since=(int, float), device=str) else {}


def device_of(settings: Mapping[str, Any]) -> str:
    """Where a run with these settings draws: a device, or the address of a web UI; empty: nowhere here."""
    from bayes_merger.run.web_ui import WEB_UIS  # all of how it is talked to

    generator = settings.get("generator") or {}
    if is_outside(settings):
        return ""
    if generator.get("program") in WEB_UIS:
        return str(generator.get("address") or generator["program"])
    return str(generator.get("device") or ANY)


def collide(one: str, other: str) -> bool:
    """Whether two runs would draw on the same device; ``auto`` may be any, ``cuda`` any GPU."""
    if not one or not other:
        return False
    kinds = [name.partition(":")[0] for name in (one, other)]
    return one == other or ANY in (one, other) or (kinds == ["cuda", "cuda"] and "cuda" in (one, other))


def device_of_study(folder: RunFolder) -> str:
    """Where the run of a study draws."""
    try:
        settings = load(folder, whole=False).user_attrs.get(CONFIG) or {}
    except UserError:  # it is only just begun
        return ANY
    return device_of(settings) if is_table(settings, generator=Mapping) else ANY
