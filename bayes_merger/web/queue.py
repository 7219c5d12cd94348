"""Runs that a page has started wait their turn: one at a time draws on a device.

What waits is in a file of this person's cache folder, not among the studies, which people hand on; so a server that
died goes on with it when it comes back. What has begun waits its turn by itself, where another server, or somebody in a
terminal, was faster: :mod:`bayes_merger.run.turns`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from filelock import FileLock

from bayes_merger.atomic import write_json
from bayes_merger.errors import ConfigError, UserError, one_line, printable
from bayes_merger.paths import cache_folder
from bayes_merger.plain_json import parse_json
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.album import opaque
from bayes_merger.run.turns import QUEUED, collide, device_of_study
from bayes_merger.web.answers import NotFound, parsed
from bayes_merger.web.children import Children
from bayes_merger.web.shelf import Shelf

PACE = 2.0
"""Seconds between two looks whether a device is free."""


@dataclass(frozen=True)
class Waiting:
    """A run that has not begun.

    Attributes:
        study: its name.
        arguments: of the command line that starts it.
        device: that it will draw on.
    """

    study: str
    arguments: list[str]
    device: str


class Queue:
    """What waits for a device, in the order in which it was asked for.

    Args:
        shelf: where the studies are.
        children: starts the processes.
    """

    def __init__(self, shelf: Shelf, children: Children) -> None:
        self._shelf, self._children = shelf, children
        self._path = cache_folder() / f"queue-{opaque(shelf.runs.absolute())}.json"
        self._started: dict[str, str] = {}  # study -> device, of those that this server has started
        self._hindered: dict[str, str] = {}  # study -> why it could not be started when its device was free
        self._over, self._deciding = threading.Event(), threading.Lock()

    def waiting(self) -> list[Waiting]:
        """All that waits; what cannot be read is nothing."""
        with suppress(OSError, ValueError, TypeError, ConfigError):
            return [parsed(Waiting, one) for one in parse_json(self._path.read_text(encoding="utf-8"))]
        return []

    def lines(self) -> list[dict[str, str]]:
        """Each run that waits, and for which study; and those that could not begin, with why."""
        waiting = self.waiting()
        drawing, hindered = self._drawing() if waiting else [], dict(self._hindered)
        lines = [
            {"study": one.study, "after": before(one, waiting[:number], drawing), "wrong": hindered.get(one.study, "")}
            for number, one in enumerate(waiting)
        ]
        return lines + [{"study": name, "after": "", "wrong": wrong} for name, wrong in self._failed().items()]

    def after(self, folder: RunFolder, device: str) -> str:
        """The study that a run would wait for; empty if its device is free."""
        return before(Waiting(folder.name, [], device), self.waiting(), self._drawing())

    def has(self, study: str) -> bool:
        """Whether a run for this study waits, or one that was started here has not ended."""
        return any(one.study == study for one in self.waiting()) or self._is_starting(study)

    def start(self, folder: RunFolder, arguments: Sequence[str], device: str, *, at_once: bool = False) -> str:
        """Start a command that works on a study, as soon as its device is free.

        Args:
            folder: of the study, which need not be there yet.
            arguments: of the command line.
            device: see :func:`bayes_merger.run.turns.device_of`.
            at_once: whatever else draws there.

        Returns:
            The study that it waits for; empty if it has been started.

        Raises:
            ConfigError: one waits, or has been started and still runs.
        """
        run = Waiting(folder.name, [*arguments, *([] if at_once else [QUEUED])], device)
        with self._deciding, self._changing() as waiting:
            if any(one.study == run.study for one in waiting):
                raise ConfigError(f"study '{run.study}': waits already; take it out of the queue first")
            self._children.check_ended(folder)
            other = "" if at_once else before(run, waiting, self._drawing())
            if other:
                waiting.append(run)
                self._started.pop(run.study, None)  # why it failed before is past
            else:
                self._begin(run)
        return other

    def leave(self, study: str) -> None:
        """Take a run out.

        Raises:
            NotFound: it does not wait.
        """
        with self._changing() as waiting:
            left, failed = [one for one in waiting if one.study != study], study in self._failed()
            if left == waiting and not failed:
                raise NotFound(f"no run for a study '{printable(study)}' waits; it may have begun")
            waiting[:] = left
        self._hindered.pop(study, None)
        if failed:
            self._started.pop(study, None)

    def look(self) -> None:
        """Start what need not wait any more."""
        if not self.waiting():
            return
        with self._deciding, self._changing() as waiting:
            drawing = self._drawing()
            for number, one in reversed(list(enumerate(waiting))):
                if not before(one, waiting[:number], drawing):
                    try:
                        self._begin(one)
                    except (UserError, OSError) as error:  # such as a full disk; the others do not wait for it
                        self._hindered[one.study] = one_line(error)
                    else:
                        self._hindered.pop(one.study, None)
                        waiting.remove(one)
                        drawing.append((one.study, one.device))

    @contextmanager
    def minded(self) -> Iterator[None]:
        """Look again and again, in a thread beside this block."""

        def work() -> None:
            while not self._over.wait(PACE):
                with suppress(UserError, OSError):  # such as a folder that is not there now
                    self.look()

        thread = threading.Thread(target=work, name="queue", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _begin(self, one: Waiting) -> None:
        self._children.start(RunFolder(self._shelf.runs / one.study), one.arguments)
        self._started[one.study] = one.device

    def _is_starting(self, study: str) -> bool:
        return self._children.is_starting(RunFolder(self._shelf.runs / study))

    def _failed(self) -> dict[str, str]:
        """The runs of this server that ended before there was a study, and why."""
        folders = [RunFolder(self._shelf.runs / name) for name in list(self._started)]
        failures = {folder.name: self._children.failure(folder) for folder in folders if not folder.exists()}
        return {name: wrong for name, wrong in failures.items() if wrong}

    def _drawing(self) -> list[tuple[str, str]]:
        """The studies that are drawn now, or will be in a moment, and where."""
        drawn = [(folder.name, device_of_study(folder)) for folder in self._shelf.folders() if folder.is_running]
        return drawn + [(name, device) for name, device in list(self._started.items()) if self._is_starting(name)]

    @contextmanager
    def _changing(self) -> Iterator[list[Waiting]]:
        """The list to change, which no other server changes meanwhile."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_suffix(".lock")):
            waiting = self.waiting()
            before = list(waiting)
            yield waiting
            if waiting != before:
                write_json(self._path, list(map(asdict, waiting)))


def before(one: Waiting, earlier: Sequence[Waiting], drawing: Sequence[tuple[str, str]]) -> str:
    """The study that a run has to wait for; empty if there is none.

    Args:
        one: the run.
        earlier: those that wait before it.
        drawing: the studies that are drawn now, and on which device each.
    """
    others = [(name, device) for name, device in drawing if name != one.study]
    others += [(other.study, other.device) for other in earlier]
    return next((name for name, device in others if collide(one.device, device)), "")
