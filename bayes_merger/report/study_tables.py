"""Studies, trials and weights as tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from bayes_merger.errors import printable
from bayes_merger.merging.recipe.postprocess import method_weights
from bayes_merger.report.overview import UNREADABLE, Overview
from bayes_merger.report.tables import with_error
from bayes_merger.search.study.history import PREDICTED


def overview_table(found: Sequence[Overview], now: datetime, *, brief: bool = False) -> Table:
    """All studies; their names are whole, since people type them.

    Args:
        found: the studies.
        now: what they are told to be older than.
        brief: without what tells least, for a narrow terminal.
    """
    table = Table()
    table.add_column("study", no_wrap=True, min_width=max((len(one.name) for one in found), default=0))
    for column, width in (("state", 6), ("trials", 6), ("best", 6), ("last trial", 10)):
        table.add_column(column, no_wrap=True, min_width=width)
    if not brief:
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=24)
    for one in found:
        of = f"/{one.budget}" if one.budget is not None else ""
        trials = "" if one.state == UNREADABLE else f"{one.finished}{of}"
        best = f"{one.best:.3f}" if one.best is not None else ""
        when = ago(one.last, now) if one.last else ""
        size = size_text(one.size) if one.size else ""
        cells = (printable(one.name, longest=255), one.state, trials, best, when, size, printable(one.method))
        table.add_row(*map(Text, cells[: len(table.columns)]))
    return table


def trials_table(trials: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """Trials in their order, with scores and beliefs; why one has none.

    Args:
        trials: as :func:`~bayes_merger.report.summary.trials_data` gives them, at least one.
        title: of trials that all have a score; without one their state is told too.
    """
    names = list(dict.fromkeys(name for row in trials for name in row["scores"]))
    believed = any("mean" in row for row in trials)
    table = Table("trial", "points", *["posterior mean"] * believed, *map(printable, names), title=title or None,
                  title_justify="left")  # fmt: skip
    if not title:
        table.add_column("state")
        table.add_column("why")
    for row in trials:
        cells = [f"{row['trial']}{' (predicted)' * (row['phase'] == PREDICTED)}"]
        cells.append("" if row["value"] is None else f"{row['value']:.3f}")
        cells += [with_error(row["mean"], row["sd"]) if "mean" in row else ""] * believed
        cells += [f"{row['scores'][name]:.3f}" if name in row["scores"] else "" for name in names]
        cells += [row["state"], printable(row.get("reason", ""))] if not title else []
        table.add_row(*map(Text, cells))
    return table


def ago(then: datetime, now: datetime) -> str:
    """How long ago something was, in the largest unit that is not 0.

    >>> ago(datetime(2026, 1, 1, 12, 0), datetime(2026, 1, 1, 14, 30))
    '2 h ago'
    """
    seconds = max(0.0, (now - then).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "now"


def size_text(size: int) -> str:
    """Bytes as people say them.

    >>> size_text(19_558_661)
    '19.6 MB'
    """
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def weights_table(weights: Mapping[str, Mapping[str, float]], idle: Collection[str] = ()) -> Table:
    """Block weights as a small table: IN, M and OUT side by side; adjustments are not weights of blocks.

    Args:
        weights: weight name -> block -> number.
        idle: those that change nothing, as in ``IN00.alpha``; their number does not matter and is not shown.
    """
    weights = method_weights(weights)
    blocks = list(dict.fromkeys(name for values in weights.values() for name in values))
    left = [name for name in blocks if name.startswith("IN")]
    right = [name for name in blocks if name.startswith("OUT")]
    middle = [name for name in blocks if name not in (*left, *right)]
    table = Table(*["block", *weights] * 3, title="weights", title_justify="left")
    for row in range(max(len(left), len(middle), len(right))):
        cells = []
        for column in (left, middle, right):
            name = column[row] if row < len(column) else ""
            cells.append(name)
            for weight, values in weights.items():
                number = f"{values[name]:.3f}" if name in values else ""
                cells.append("idle" if f"{name}.{weight}" in idle else number)
        table.add_row(*cells)
    return table
