"""What a run says of itself while it goes on, for those who look into its folder: :mod:`bayes_merger.run.control`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bayes_merger.run.control import PACE, replace_file
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import STUDY, ProgressReporter, Reporting, Step, TrialReport


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
        self._stage: dict[str, Any] | None = None
        self.note, self.quiet = progress.note, progress.quiet

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Pass it on, and write it."""
        self._progress.step(text, done, total)
        self._tell("", text, done, total)

    def budget(self, done: int, total: int, of: str = STUDY, about: str = "") -> None:
        """Pass it on, and write it where it is no count of trials, which the study has itself."""
        self._progress.budget(done, total, of, about)
        self._stage = None if of == STUDY else {"of": of, "about": about, "done": done, "total": total}
        self._write()

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
        """Write it, but not every step of a sampler."""
        new = self._steps.get(worker, ("", 0, 0))[0] != text
        self._steps[worker] = text, done, total
        if new or self._clock() >= self._written + PACE:
            self._write()

    def _write(self) -> None:
        self._written = self._clock()
        steps = [{"worker": name, "text": step[0], "done": step[1], "total": step[2]}
                 for name, step in self._steps.items()]  # fmt: skip
        with suppress(OSError):  # a run does not end because nobody can watch it
            replace_file(self._path, {"steps": steps, "stage": self._stage})


@contextmanager
def reporting_status(folder: RunFolder, reporting: Reporting) -> Iterator[ProgressReporter]:
    """A run's progress reporter, which keeps the status file too."""
    with reporting(folder.log) as progress:
        yield StatusReporter(progress, folder)
