"""Where the time of a study's trials goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from bayes_merger.errors import printable
from bayes_merger.timing import BESIDE

PARTS = {
    "choose": "choosing the weights",
    "merge": "merging",
    "embed": "prompts to embeddings",
    "draw": "drawing",
    "decode": "decoding by the VAE",
    "save": "saving pictures",
    "score": "scoring",
}
"""Part of a trial, as stored -> what it is."""

OTHER = "all else"


def words_of(part: str) -> str:
    """What a part of a trial is; one of another version by its own name."""
    return PARTS.get(part) or printable(part)


def timing(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds of each part of a trial that was judged whole, in order; empty where no trial has them.

    Args:
        trials: as :func:`~bayes_merger.report.summary.trials_data` gives them.
    """
    rows = _measured(trials)
    if not rows:
        return {}
    found = {part for row in rows for part in row["times"] if not part.startswith(BESIDE)}
    means = _means(rows, [*PARTS, *sorted(found - PARTS.keys())])
    whole = sum(row["seconds"] for row in rows) / len(rows)
    return {**means, OTHER: max(whole - sum(means.values()), 0.0)}


def beside(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds of what went on while other parts did, which is no part of the whole.

    Args:
        trials: as :func:`~bayes_merger.report.summary.trials_data` gives them.
    """
    rows = _measured(trials)
    return _means(rows, [BESIDE + part for part in PARTS if any(row["times"].get(BESIDE + part) for row in rows)])


def _measured(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in trials if row["state"] == "complete" and "times" in row and "seconds" in row]


def _means(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    sums = dict.fromkeys(names, 0.0)
    for row in rows:
        for part in row["times"].keys() & sums.keys():
            sums[part] += row["times"][part]
    return {name: seconds / len(rows) for name, seconds in sums.items()}


def timing_table(trials: Sequence[Mapping[str, Any]]) -> Table | None:
    """The same as a table, with shares and seconds per picture; None where no trial has them."""
    means = timing(trials)
    if not means:
        return None
    rows = _measured(trials)
    pictures = sum(row["pictures"] for row in rows) / len(rows)
    whole = sum(means.values()) or 1.0
    table = Table(title=f"where the time goes (mean of {len(rows)} trials)", title_justify="left")
    table.add_column("part")
    for column in ("seconds", "share", "per picture"):
        table.add_column(column, justify="right")
    threads = {f"{PARTS[name.removeprefix(BESIDE)]}, in another thread": one for name, one in beside(trials).items()}
    for name, seconds in {**means, "a trial": sum(means.values()), **threads}.items():
        each = f"{seconds / pictures:.3f}" if pictures else ""
        table.add_row(escape(words_of(name)), f"{seconds:.3f}", f"{seconds / whole:.0%}", each)
    return table
