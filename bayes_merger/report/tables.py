"""What a study has come to, as tables and lines for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bayes_merger.errors import counted
from bayes_merger.report.verdict import lead_ratio, verdict
from bayes_merger.run.record import Final
from bayes_merger.search.surrogates.posterior import StudyPosterior


def closing_table(final: Final, pictures: int) -> Table:
    """The final round as a table: the verdict, mean points of the comparison, and how sure each lead is.

    Args:
        final: the final round.
        pictures: how many of each row are compared, see :func:`bayes_merger.report.verdict.pictures_compared`.
    """
    title = f"compared on seeds that nothing was chosen by ({counted(final.images, 'picture')} each)"
    if found := verdict(final, pictures):
        title = f"the best merge is {found.text}\n{title}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("model")
    table.add_column("points", justify="right")
    table.add_column("best merge leads by", justify="right")
    table.add_column("in standard errors", justify="right")
    table.add_row(final.rows[0].name, with_error(final.rows[0].mean, final.rows[0].error), "", "")
    for row in final.rows[1:]:
        ratio = lead_ratio(row, pictures)
        table.add_row(
            row.name,
            with_error(row.mean, row.error),
            with_error(row.behind, row.behind_error, "+"),
            f"{ratio:+.1f}" if ratio is not None else "",
        )
    return table


def candidates_table(final: Final, known: StudyPosterior) -> Table:
    """The best trials drawn again: as observed, as believed, and on the fresh seeds that the winner was chosen by."""
    believed = {belief.trial: belief for belief in known.each}
    title = f"the best {len(final.rescored)} drawn again, to choose ({counted(final.images, 'picture')} each)"
    table = Table("trial", "observed", "posterior mean", "drawn again", title=title, title_justify="left")
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
        taken: the trial that is exported.
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
    console = Console(width=100, no_color=True, force_terminal=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def verdict_line(data: Mapping[str, Any]) -> str:
    """The verdict on a study's winner as a sentence, without its end.

    Args:
        data: as ``summary`` gives it, of a study that is done.
    """
    if data["verdict"] is None:
        return "the best merge was not compared with its models: nothing was drawn on fresh seeds"
    return f"the best merge{' by weighted sum' if 'front' in data else ''} is {data['verdict']['text']}"


def best_lines(data: Mapping[str, Any]) -> list[str]:
    """The exported trial and how certain its score is, in a line or two.

    Args:
        data: as ``summary`` gives it.
    """
    best, final = data["best"], data["final"]
    about = [f"{best['value']:.3f} points when drawn"]
    if "mean" in best:
        about.append(f"posterior mean {with_error(best['mean'], best['sd'])}")
    if final and final["rows"]:
        row = final["rows"][0]
        about.append(f"{with_error(row['mean'], row['error'])} in the comparison")
    lines = [f"best: trial {best['trial']}, {', '.join(about)}", *(one["text"] for one in data["holdouts"])]
    if "front" in data:
        return [
            *lines,
            "it is the trial of the Pareto front with the best weighted sum; any other is written with --trial",
        ]
    others = (
        ("best observed", "value", data["best_observed"]),
        ("best posterior mean", "mean", data["best_posterior_mean"]),
    )
    for name, key, other in others:
        if other and other[key] > best[key]:
            mean = f", posterior mean {with_error(other['mean'], other['sd'])}" if data["best_posterior_mean"] else ""
            lines.append(f"{name}: trial {other['trial']}, {other['value']:.3f} points when drawn{mean}")
    return lines
