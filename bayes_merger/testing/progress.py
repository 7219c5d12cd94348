"""A progress reporter that remembers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bayes_merger.run.progress import Step, TrialReport


class RecordingReporter:
    """A :class:`~bayes_merger.run.progress.ProgressReporter` for tests and notebooks.

    Attributes:
        reports: of every finished trial.
        lines: every note.
        stages: every part of the run and how far it was: its name, done, total, and what was said about it.
    """

    def __init__(self) -> None:
        self.reports: list[TrialReport] = []
        self.lines: list[str] = []
        self.stages: list[tuple[str, int, int, str]] = []

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Say nothing."""

    def budget(self, done: int, total: int, of: str = "study", about: str = "") -> None:
        """Remember it."""
        self.stages.append((of, done, total, about))

    def trial(self, report: TrialReport) -> None:
        """Remember it."""
        self.reports.append(report)

    def note(self, text: str) -> None:
        """Remember it."""
        self.lines.append(text)

    @contextmanager
    def members(self, names: Sequence[str]) -> Iterator[list[Step]]:
        """Say nothing of their steps either."""
        yield [self.step for _ in names]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing to hide."""
        yield
