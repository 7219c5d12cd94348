"""How a run is steered from outside while it goes on, and what it says of itself: two small files in its folder.

``wish.json`` says what the run is to do; it looks there between two trials and between two steps of drawing.
``status.json`` says what it does. Both count only while a process holds the study's lock, and whoever takes the lock
removes what a former run has left, so nothing that is killed leaves anything behind that counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError, Interrupted
from bayes_merger.plain_json import parse_json
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import ProgressReporter, Reporting, Step, TrialReport
from bayes_merger.timing import timed

GO_ON, PAUSE, STOP, STOP_NOW = WISHES = ("go on", "pause", "stop", "stop now")

STATES = {PAUSE: "pausing", STOP: "stopping", STOP_NOW: "stopping"}
"""Wish -> the state of a run that has not yet come to it."""

PACE = 0.2
"""Seconds between two looks for a wish, and between two reports of one step's progress."""

LARGEST = 16 << 10
"""Bytes of either file."""


class WishFile:
    """A run's side of it: what it is asked to do, and whether that is done.

    Args:
        folder: of the study.
        progress: told when it pauses and goes on.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(
        self, folder: RunFolder, progress: ProgressReporter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._progress, self._clock = folder, progress, clock
        self._known, self._until = GO_ON, -1.0

    @property
    def wish(self) -> str:
        """What it is asked to do, as of an instant ago."""
        if self._clock() >= self._until:
            self._known, self._until = wish_of(self._folder), self._clock() + PACE
        return self._known

    @property
    def is_to_stop(self) -> bool:
        """Whether it is asked to end."""
        return self.wish in (STOP, STOP_NOW)

    def hold(self, leaving: Callable[[], bool] = lambda: False) -> None:
        """Wait here while the run is to pause.

        Args:
            leaving: whether something else ends the wait.

        Raises:
            Interrupted: it is to stop at once.
        """
        if self.wish == PAUSE:
            self._progress.note(f"paused; go on with  bayes-merger resume {self._folder.typed}")
            with timed(PAUSE):
                while self.wish == PAUSE and not leaving():
                    self._progress.step("paused")
                    time.sleep(PACE)
            self._progress.note("going on" if self.wish == GO_ON else "no longer paused")
        if self.wish == STOP_NOW:
            raise Interrupted("stopped at once; the unfinished trial is drawn again on resume")


class StatusReporter:
    """A progress reporter that also keeps the status file.

    Args:
        progress: told everything as before.
        folder: of the study.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(
        self, progress: ProgressReporter, folder: RunFolder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._path, self._clock = progress, folder.status, clock
        self._steps: dict[str, tuple[str, int, int]] = {}
        self._written = -1.0
        self.budget, self.note, self.quiet = progress.budget, progress.note, progress.quiet

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Pass it on, and write it."""
        self._progress.step(text, done, total)
        self._tell("", text, done, total)

    def trial(self, report: TrialReport) -> None:
        """Pass it on."""
        self._progress.trial(report)

    @contextmanager
    def members(self, names: Sequence[str]) -> Iterator[list[Step]]:
        """Pass each worker's steps on, and write them."""
        with self._progress.members(names) as steps:
            self._steps = {}
            yield [self._both(name, step) for name, step in zip(names, steps, strict=True)]
        self._steps = {}

    def _both(self, name: str, step: Step) -> Step:
        def told(text: str, done: int = 0, total: int = 0) -> None:
            step(text, done, total)
            self._tell(name, text, done, total)

        return told

    def _tell(self, worker: str, text: str, done: int, total: int) -> None:
        """Write it, but not every step of a sampler; no flush, since after a power cut it counts for nothing."""
        new = self._steps.get(worker, ("", 0, 0))[0] != text
        self._steps[worker] = text, done, total
        if not new and self._clock() < self._written + PACE:
            return
        self._written = self._clock()
        steps = [{"worker": name, "text": step[0], "done": step[1], "total": step[2]}
                 for name, step in self._steps.items()]  # fmt: skip
        _replace(self._path, {"steps": steps})


@contextmanager
def reporting_status(folder: RunFolder, reporting: Reporting) -> Iterator[ProgressReporter]:
    """A run's progress reporter, which keeps the status file too."""
    with reporting(folder.log) as progress:
        yield StatusReporter(progress, folder)


def wish_of(folder: RunFolder) -> str:
    """What a run is asked to do; what cannot be read asks for nothing."""
    wish = _read(folder.wish).get("wish")
    return wish if wish in WISHES else GO_ON


def steps_of(folder: RunFolder) -> list[dict[str, Any]]:
    """What a run does, a step for each of its workers; empty where none goes on."""
    steps = _read(folder.status).get("steps") if folder.is_running else None
    return [_step(step) for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def run_state(folder: RunFolder) -> str:
    """``running``, ``pausing``, ``paused`` or ``stopping``; empty where no process holds the study."""
    if not folder.is_running:
        return ""
    wish = wish_of(folder)
    steps = steps_of(folder) if wish == PAUSE else []
    if steps and all(step["text"] in ("paused", "stopped") for step in steps):
        return "paused"
    return STATES.get(wish, "running")


def ask(folder: RunFolder, wish: str) -> None:
    """Ask a run for something; see :mod:`bayes_merger.run.steering` for what makes sense when."""
    assert wish in WISHES
    _replace(folder.wish, {"wish": wish})


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    done, total = (max(value, 0) if type(value := step.get(name)) is int else 0 for name in ("done", "total"))
    return {"worker": str(step.get("worker", "")), "text": str(step.get("text", "")), "done": done, "total": total}


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, ConfigError), path.open("rb") as file:
        found = parse_json(file.read(LARGEST).decode())
        return found if isinstance(found, dict) else {}
    return {}


def _replace(path: Path, data: Mapping[str, Any]) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        new.write_text(json.dumps(data), encoding="utf-8")
        new.replace(path)
