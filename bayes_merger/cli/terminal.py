"""What a run looks like on the screen: two live bars, title and bell of a terminal; plain lines in a pipe; a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bayes_merger.errors import Interrupted
from bayes_merger.run.progress import FOR_YOU, PlainReporter, ProgressReporter, Step, TrialReport, ends, trial_line


class _Bars(Progress):
    """Bars that leave room for the ^C that a terminal writes behind them; in the next line it would push them down."""

    def get_renderable(self) -> RenderableType:
        """All of them."""
        return _Narrower(super().get_renderable())


@dataclass(frozen=True)
class _Narrower:
    what: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.what, options.update_width(options.max_width - 3))


class BarReporter(PlainReporter):
    """Two live lines (the study, the current step) under the finished trials' lines."""

    def __init__(self, log: Path, console: Console) -> None:
        super().__init__(log)
        self._console = console
        self._progress = _Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            console=console,
            transient=True,
        )
        self._study = self._progress.add_task("study", total=None, info="")
        self._step = self._progress.add_task("starting", total=None, info="")
        self._name, self._waiting = log.parent.name, False

    def __enter__(self) -> BarReporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        self._console.set_window_title(self._name)
        if kind is None or not issubclass(kind, Interrupted | KeyboardInterrupt):  # who pressed Ctrl-C is looking
            self._console.bell()

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show the current step on the second line; ring when a person begins to be waited for."""
        if (waits := text.startswith(FOR_YOU)) and not self._waiting:
            self._console.bell()
        self._waiting = waits
        self._progress.update(self._step, description=text, completed=done, total=total or None)

    def budget(self, done: int, total: int, of: str = "study", about: str = "") -> None:
        """Set the first line, and the window's title."""
        self._progress.update(self._study, description=of, completed=done, total=total, info=about)
        self._console.set_window_title(f"{done}/{total} {self._name}")

    def trial(self, report: TrialReport) -> None:
        """Print the trial above the bars and move the first one on."""
        best = f"best {report.best:.3f}" if report.best is not None and not report.blind else ""
        best += f" ({report.mean:.3f})" if report.mean is not None and not report.blind else ""
        best += f"  {ends(report.left)}" if report.left else ""
        self.budget(report.done, report.total)
        self._progress.update(self._study, info=best.lstrip())
        line = trial_line(report)
        self._write(line)
        self._console.print(line, highlight=False, markup=False)  # too long, it is broken between words

    def note(self, text: str) -> None:
        """Print a line above the bars and log it; it is broken between words, unless a command in it may be copied."""
        self._write(text)
        self._console.print(text, highlight=False, markup=False, soft_wrap="bayes-merger " in text or "\n" in text)

    @contextmanager
    def members(self, names: Sequence[str]) -> Iterator[list[Step]]:
        """A line for each worker, under the study's."""
        self._progress.update(self._step, visible=False)
        tasks = [self._progress.add_task(f"{name}: starting", total=None, info="") for name in names]

        def line(name: str, task: TaskID) -> Step:
            def step(text: str, done: int = 0, total: int = 0) -> None:
                self._progress.update(task, description=f"{name}: {text}", completed=done, total=total or None)

            return step

        try:
            yield [line(name, task) for name, task in zip(names, tasks, strict=True)]
        finally:
            for task in tasks:
                self._progress.remove_task(task)
            self._progress.update(self._step, visible=True)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Take the bars away while a person is asked."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


@contextmanager
def watching(log: Path) -> Iterator[ProgressReporter]:
    """The progress reporter that suits where standard output goes."""
    console = Console()
    if sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal:
        with BarReporter(log, console) as progress:
            yield progress
    else:
        yield PlainReporter(log)
