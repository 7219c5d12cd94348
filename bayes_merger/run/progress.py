"""What a run tells the person in front of it, and how that person stops it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from bayes_merger.errors import Interrupted


@dataclass(frozen=True)
class TrialReport:
    """One finished trial, as shown to a person.

    Attributes:
        number: the trial's number in the study.
        done: how many trials are finished, this one included.
        total: the budget.
        value: points (0 to 10 for most scorers); ``None`` for a failed trial.
        best: best value so far, ``None`` before the first.
        improved: whether this trial is better than all before.
        scores: mean raw score of each scorer.
        reason: why it failed or was pruned.
        seconds: wall time of the trial.
        worker: who drew it, where there are several.
        pruned: whether it was cut short, for ``reason``; that is not a failure.
        mean: best posterior mean so far; ``None`` where there is none.
        front: how many trials are on the Pareto front; 0 for one objective.
        pictures: how many were drawn.
        left: seconds until the whole run is expected to be over; ``None`` before anything is known.
        merge: what it is, where that has a name: ``model A``, ``even mix``, ``the predicted best``.
        blind: whether the person in front rates what comes next, so that nothing may tell how good this one is.
    """

    number: int
    done: int
    total: int
    value: float | None
    best: float | None
    improved: bool
    scores: dict[str, float]
    reason: str | None
    seconds: float
    worker: str = ""
    pruned: bool = False
    mean: float | None = None
    front: int = 0
    pictures: int = 0
    left: float | None = None
    merge: str = ""
    blind: bool = False


STUDY = "study"
"""What is counted in trials."""

FOR_YOU = "waiting for your "
"""How a step begins that waits for a person."""

Step = Callable[[str, int, int], None]
"""Told the current step of one worker: what, how much of it is done, of how much."""


class ProgressReporter(Protocol):
    """Told what goes on; draws bars, prints lines, or does nothing."""

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """The current step of the current trial; ``total`` 0 when its length is unknown."""

    def budget(self, done: int, total: int, of: str = STUDY, about: str = "") -> None:
        """How far the study is, in trials; or another part of the run, and what is to be said about it."""

    def trial(self, report: TrialReport) -> None:
        """A trial is finished."""

    def note(self, text: str) -> None:
        """One line worth keeping."""

    def members(self, names: Sequence[str]) -> AbstractContextManager[list[Step]]:
        """A line for each of several workers, in place of the one step."""

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No bars while a person is asked something on the same terminal."""
        yield


Reporting = Callable[[Path], AbstractContextManager[ProgressReporter]]
"""Opens a progress reporter, given the file that the run is logged in."""


def trial_line(report: TrialReport) -> str:
    """One trial in one line."""
    head = f"trial {report.number:>3}  {report.done}/{report.total}"
    head += "".join(f"  {told}" for told in (report.worker, report.merge) if told)
    if report.pruned:
        return f"{head}  given up: {report.reason}  {_time(report)}"
    if report.value is None:
        return f"{head}  failed: {report.reason}"
    if report.blind:
        return f"{head}  rated  {_time(report)}"
    star = "  * best" if report.improved else f"  best {report.best:.3f}"
    star += f", posterior mean {report.mean:.3f}" if report.mean is not None else ""
    star += f"  front {report.front}" if report.front else ""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in report.scores.items())
    return f"{head}  {report.value:.3f} points ({scores})  {_time(report)}{star}"


def _time(report: TrialReport) -> str:
    """What a trial took, per picture and all together, and when the run will be over."""
    each = f", {report.seconds / report.pictures:.1f} s a picture" if report.pictures > 1 else ""
    return f"{report.seconds:.1f} s{each}{f'  {ends(report.left)}' if report.left else ''}"


def ends(left: float) -> str:
    """When something ends that takes so many seconds more: ``ends about 14:32 (1 h 20 min)``."""
    from bayes_merger.search.study.stopping import time_text  # brings Optuna

    at = time.localtime(time.time() + left)
    day = "%H:%M" if left < 86400 else "%d %b %H:%M"
    return f"ends about {time.strftime(day, at)} ({time_text(left)})"


class PlainReporter:
    """Lines without colours or bars, for pipes and logs."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Say nothing: a pipe wants a line per trial."""

    def budget(self, done: int, total: int, of: str = STUDY, about: str = "") -> None:
        """Say nothing: every trial's line has it."""

    def trial(self, report: TrialReport) -> None:
        """Print one line."""
        self.note(trial_line(report))

    def note(self, text: str) -> None:
        """Print and log one line."""
        self._write(text)
        print(text, flush=True)

    @contextmanager
    def members(self, names: Sequence[str]) -> Iterator[list[Step]]:
        """Say nothing of their steps either."""
        yield [self.step for _ in names]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing to hide."""
        yield

    def _write(self, text: str) -> None:
        write_log(self._log, text)


def write_log(log: Path, text: str) -> None:
    """Put a line into a run's log, with the time; an empty text is none."""
    if not text:
        return
    # It is for the eye: what cannot be written into it is no reason to end a run.
    with suppress(OSError), log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")


@contextmanager
def plain_reporting(log: Path) -> Iterator[ProgressReporter]:
    """A line per trial, printed and logged."""
    yield PlainReporter(log)


def plain_note(text: str) -> None:
    """A line of what is worth knowing before there is a study, which could log it; printed."""
    print(text, flush=True)


class Control(Protocol):
    """What other processes ask a run for, such as :class:`bayes_merger.run.wishes.Wishes` has it."""

    @property
    def is_to_stop(self) -> bool:
        """Whether the run is to end."""

    def hold(self, leaving: Callable[[], bool]) -> None:
        """Wait here while the run is to pause, unless something else ends the wait.

        Raises:
            Interrupted: it is to stop at once.
        """

    def look(self, attributes: Mapping[str, Any]) -> None:
        """Heed what the study says, by its attributes."""

    def tell(self) -> None:
        """Say once that the run is paused, and once that it no longer is."""


class StopSignal:
    """The first Ctrl-C (or SIGTERM) finishes the current trial, the second stops at once; so does who steers the run.

    A context manager; while a person is being asked, ``at_once`` gives Ctrl-C its usual meaning.

    Args:
        progress: told when a stop is requested; ``None`` where another process reports it.
        control: what other processes ask for; None where nobody can.
    """

    def __init__(self, progress: ProgressReporter | None, control: Control | None = None) -> None:
        self._pressed = False
        self._progress = progress
        self._control = control
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise Interrupted("stopped at once; the unfinished trial is drawn again on resume")
        self._pressed = True
        if self._progress is None:
            return
        told = "stopping after this trial; Ctrl-C again stops at once"
        # On a thread: the signal may have come in the middle of a line, and no stream can be entered twice by one
        threading.Thread(target=self._progress.note, args=(told,), name="stopping").start()

    @property
    def asked(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._pressed or (self._control is not None and self._control.is_to_stop)

    def hold(self) -> None:
        """Wait here while the run is to pause; cheap enough for every step of a sampler.

        Raises:
            Interrupted: it is to stop at once.
        """
        if self._control is not None:
            self._control.hold(lambda: self._pressed)

    def look(self, attributes: Mapping[str, Any]) -> None:
        """Heed what the study says, by its attributes."""
        if self._control is not None:
            self._control.look(attributes)

    def tell(self) -> None:
        """Say whether the run is paused, for others who are held."""
        if self._control is not None:
            self._control.tell()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Ctrl-C raises KeyboardInterrupt inside this block."""
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    def check(self) -> None:
        """Wait here while the run is to pause, and stop when asked to.

        Raises:
            Interrupted: somebody pressed Ctrl-C, or asked from outside.
        """
        self.hold()
        if self.asked:
            raise Interrupted("stopped; every finished trial is kept")
