"""What a run looks like on the screen: two live bars on a terminal, plain lines in a pipe, both kept in the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from bayes_merger.run.progress import ProgressReporter, Step, TrialReport
from bayes_merger.run.record import Final
from bayes_merger.search.surrogates.posterior import StudyPosterior


def trial_line(report: TrialReport) -> str:
    """One trial in one line."""
    head = f"trial {report.number:>3}  {report.done}/{report.total}"
    head += f"  {report.worker}" if report.worker else ""
    if report.pruned:
        return f"{head}  given up: {report.reason}  {report.seconds:.1f} s"
    if report.value is None:
        return f"{head}  failed: {report.reason}"
    star = "  * best" if report.improved else f"  best {report.best:.3f}"
    star += f", posterior mean {report.mean:.3f}" if report.mean is not None else ""
    star += f"  front {report.front}" if report.front else ""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in report.scores.items())
    return f"{head}  {report.value:.3f} points ({scores})  {report.seconds:.1f} s{star}"


class PlainWatcher:
    """Lines without colours or bars, for pipes and logs."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Say nothing: a pipe wants a line per trial."""

    def budget(self, done: int, total: int) -> None:
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
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")


class BarWatcher(PlainWatcher):
    """Two live lines (the study, the current step) under the finished trials' lines."""

    def __init__(self, log: Path, console: Console) -> None:
        super().__init__(log)
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._study = self._progress.add_task("study", total=None, info="")
        self._step = self._progress.add_task("starting", total=None, info="")

    def __enter__(self) -> BarWatcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show the current step on the second line."""
        self._progress.update(self._step, description=text, completed=done, total=total or None)

    def budget(self, done: int, total: int) -> None:
        """Set the first line."""
        self._progress.update(self._study, completed=done, total=total)

    def trial(self, report: TrialReport) -> None:
        """Print the trial above the bars and move the first one on."""
        best = f"best {report.best:.3f}" if report.best is not None else ""
        best += f" ({report.mean:.3f})" if report.mean is not None else ""
        self._progress.update(self._study, completed=report.done, total=report.total, info=best)
        self.note(trial_line(report))

    def note(self, text: str) -> None:
        """Print one line above the bars and log it."""
        self._write(text)
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

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
    """The watcher that suits where standard output goes."""
    console = Console()
    if sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal:
        with BarWatcher(log, console) as watcher:
            yield watcher
    else:
        yield PlainWatcher(log)


def closing_table(final: Final) -> Table:
    """The final round as a table: mean points on fresh seeds, and how sure the lead is."""
    table = Table(title=f"on fresh seeds ({final.images} pictures each)", title_justify="left")
    table.add_column("model")
    table.add_column("points", justify="right")
    table.add_column("best merge leads by", justify="right")
    table.add_column("in standard errors", justify="right")
    for row in final.rows:
        points = with_error(row.mean, row.error)
        if row is final.rows[0]:
            table.add_row(row.name, points, "", "")
            continue
        error = row.behind_error
        table.add_row(
            row.name,
            points,
            with_error(row.behind, error, "+"),
            f"{row.behind / error:+.1f}" if error and error > 1e-9 else "",
        )
    return table


def candidates_table(final: Final, known: StudyPosterior) -> Table:
    """The best trials drawn again: as observed, as believed, and on the fresh seeds that the winner was chosen by."""
    believed = {belief.trial: belief for belief in known.each}
    title = f"the best {len(final.rescored)} drawn again ({final.images} fresh pictures each)"
    table = Table("trial", "observed", "posterior mean", "fresh", title=title, title_justify="left")
    for one in final.rescored:
        belief = believed[one.trial]
        star = " *" if one.trial == final.winner else ""
        mean = with_error(belief.mean, belief.sd) if known.fitted else ""
        table.add_row(f"{one.trial}{star}", f"{belief.observed:.3f}", mean, with_error(one.mean, one.error))
    return table


def front_table(rows: Sequence[Mapping[str, Any]], taken: int) -> Table:
    """The Pareto front: points of each objective, and what is known of them on fresh seeds.

    Args:
        rows: as ``report.front_data`` gives them.
        taken: the trial that is taken home.
    """
    names = list(rows[0]["values"])
    fresh = any("fresh" in row for row in rows)
    title = f"the Pareto front ({len(rows)} trials)"
    table = Table("trial", *names, "weighted sum", title=title, title_justify="left")
    for name in names if fresh else ():
        table.add_column(f"{name}, fresh")
    for row in rows:
        cells = [f"{row['trial']}{' *' if row['trial'] == taken else ''}"]
        cells += [f"{value:.3f}" for value in row["values"].values()] + [f"{row['weighted_sum']:.3f}"]
        if "fresh" in row:
            cells += [with_error(row["fresh"][name], row["fresh_error"][name]) for name in names]
        table.add_row(*cells)
    return table


def with_error(value: float, error: float | None, sign: str = "") -> str:
    """A number with its standard error, if that is known.

    >>> with_error(1.5, 0.25, "+")
    '+1.500 ± 0.250'
    """
    return f"{value:{sign}.3f}" + (f" ± {error:.3f}" if error is not None else "")


def table_text(table: Table) -> str:
    """A table as plain text, for the log as well as the screen."""
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
