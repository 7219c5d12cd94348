"""Runs that a page has started wait their turn: one at a time draws on a device.

Each waits as a process of its own, like one that was started in a terminal (:mod:`bayes_merger.run.turns`); so it needs
no server, and every server sees it. What a server knows beside is what it has just started, and what came to nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import takewhile

from bayes_merger.errors import printable
from bayes_merger.run.control import STOP, ask
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.turns import QUEUED, collide, in_the_way, waiting
from bayes_merger.web.answers import NotFound
from bayes_merger.web.children import Children
from bayes_merger.web.shelf import Shelf


class Queue:
    """What waits for a device, in the order in which it came.

    Args:
        shelf: where the studies are.
        children: starts the processes.
    """

    def __init__(self, shelf: Shelf, children: Children) -> None:
        self._shelf, self._children = shelf, children
        self._started: dict[str, str] = {}  # study -> device, of those that this server has started
        self._deciding = threading.Lock()

    def lines(self) -> list[dict[str, str]]:
        """Each run that waits, and for which study; and those that could not begin, with why."""
        lines = [_line(folder.name, after) for folder, after in waiting(self._shelf.runs)]
        starting = {name: self.after(self._folder(name), device) for name, device in self._starting()}
        lines += [_line(name, after) for name, after in starting.items() if after]
        return lines + [_line(name, wrong=wrong) for name, wrong in self._failed().items()]

    def after(self, folder: RunFolder, device: str) -> str:
        """The study that a run would wait for; empty if its device is free."""
        earlier = takewhile(lambda one: one[0] != folder.name, self._starting())
        starting = (name for name, other in earlier if collide(device, other))
        return in_the_way(folder, device) or next(starting, "")

    def has(self, study: str) -> bool:
        """Whether a run of this study goes on or waits, or one that was started here has not ended."""
        folder = self._folder(study)
        return folder.is_running or self._children.is_starting(folder)

    def start(self, folder: RunFolder, arguments: Sequence[str], device: str, *, at_once: bool = False) -> str:
        """Start a command that works on a study, and begins as soon as its device is free.

        Args:
            folder: of the study, which need not be there yet.
            arguments: of the command line.
            device: see :func:`bayes_merger.run.turns.device_of`.
            at_once: whatever else draws there.

        Returns:
            The study that it waits for; empty if there is none.

        Raises:
            ConfigError: one has been started and still runs.
        """
        with self._deciding:
            self._children.check_ended(folder)
            self._started.pop(folder.name, None)  # it comes after those that were started meanwhile
            other = "" if at_once else self.after(folder, device)
            self._children.start(folder, [*arguments, *([] if at_once else [QUEUED])])
            self._started[folder.name] = device
        return other

    def leave(self, study: str) -> None:
        """Take a run out.

        Raises:
            NotFound: it does not wait.
            StorageError: its folder cannot be written.
        """
        waits = next((folder for folder, _ in waiting(self._shelf.runs) if folder.name == study), None)
        if waits:
            ask(waits, STOP)
        elif study in self._failed():
            self._started.pop(study, None)
        else:
            raise NotFound(f"no run for a study '{printable(study)}' waits; it may have begun")

    def _folder(self, study: str) -> RunFolder:
        return RunFolder(self._shelf.runs / study)

    def _starting(self) -> list[tuple[str, str]]:
        """The runs of this server that do not hold their study yet, and where each will draw."""
        started = [(self._folder(name), device) for name, device in list(self._started.items())]
        return [(one.name, device) for one, device in started if self._children.is_starting(one) and not one.is_running]

    def _failed(self) -> dict[str, str]:
        """The runs of this server that ended before there was a study, and why."""
        folders = [self._folder(name) for name in list(self._started)]
        failures = {folder.name: self._children.failure(folder) for folder in folders if not folder.exists()}
        return {name: wrong for name, wrong in failures.items() if wrong}


def _line(study: str, after: str = "", wrong: str = "") -> dict[str, str]:
    return {"study": study, "after": after, "wrong": wrong}
