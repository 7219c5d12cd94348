"""A study's trials as a sheet: rows and columns for a terminal, a spreadsheet, another program."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins so is a formula for a spreadsheet; an apostrophe before it makes it text."""

Trial = Mapping[str, Any]
"""As :func:`~bayes_merger.report.summary.trials_data` gives it."""

OWN = ("trial", "points", "mean", "sd", "seconds", "phase", "state", "reason")
"""The columns of every study; those of scorers and weights come after."""


def columns_of(trials: Sequence[Trial]) -> list[str]:
    """The columns that can be sorted by: the study's own, then its scorers."""
    return [*OWN, *dict.fromkeys(name for row in trials for name in row["scores"])]


def value_in(row: Trial, column: str) -> Any:
    """A trial's value in a column; None where it has none."""
    if column in row["scores"]:
        return row["scores"][column]
    return row.get("value" if column == "points" else column)


def sorted_by(trials: Sequence[Trial], column: str) -> list[Trial]:
    """Trials by one column: numbers from the greatest, trial numbers and words from the first; those without come last.

    Raises:
        ConfigError: there is no such column.
    """
    known = columns_of(trials)
    if column not in known:
        raise ConfigError(f"--sort: no column '{column}'; {nearest(column, known)}")
    having = [row for row in trials if value_in(row, column) not in (None, "")]
    falling = column != "trial" and all(isinstance(value_in(row, column), int | float) for row in having)
    ordered = sorted(having, key=lambda row: value_in(row, column), reverse=falling)
    return ordered + [row for row in trials if value_in(row, column) in (None, "")]


def filtered(trials: Sequence[Trial], word: str) -> list[Trial]:
    """The trials that have a word in their state, phase or reason."""
    texts = ("state", "phase", "reason")
    return [row for row in trials if any(word.lower() in str(row.get(text, "")).lower() for text in texts)]


def as_csv(trials: Sequence[Trial]) -> str:
    """The trials as CSV, with their weights, ``IN00.alpha`` and the like."""
    weights = list(dict.fromkeys((block, weight) for row in trials for weight, own in row["weights"].items()
                                 for block in own))  # fmt: skip
    columns = columns_of(trials)
    written = io.StringIO()
    sheet = csv.writer(written, lineterminator="\n")
    sheet.writerow(map(_cell, [*columns, *(f"{block}.{weight}" for block, weight in weights)]))
    for row in trials:
        own = [row["weights"].get(weight, {}).get(block) for block, weight in weights]
        sheet.writerow([_cell(value) for value in (*(value_in(row, column) for column in columns), *own)])
    return written.getvalue()


def _cell(value: Any) -> Any:
    """A value as a spreadsheet or a terminal may have it: what either would take for a command is only text."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value, longest=2000)}" if value.startswith(FORMULA) else printable(value, longest=2000)
