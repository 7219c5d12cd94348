"""How models differ, for people and for programs: tables, words, plain data, a picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from bayes_merger.errors import and_more, counted, one_line, printable
from bayes_merger.merging.engine.difference import Difference, Pair, Row
from bayes_merger.report.figures import draw_cells, new_figure, write_plot

RELATED = 0.5
"""The cosine of two models' matrices from which they count as relatives: of models that were trained independently it
is all but 0, of fine-tunes all but 1."""

MIDDLE = 0.25
"""Below this cosine at one of three models, the two others went from it in directions of their own."""

BETWEEN = -0.9
"""Below this one, it lies on the line between them."""


def tables(found: Difference) -> list[Table]:
    """The measures by block and by part of blocks."""
    return [_table(found, title, groups) for title, groups in _groups(found).items()]


def words(found: Difference) -> Iterator[str]:
    """What else there is to say, a line each: who is whose relative, what only some have, what is broken."""
    for name, model in found.models.items():
        yield _about(name, model.path, model.kind.words, model.stored, model.prediction)
    yield from relations(found)
    for name, keys in found.lacking.items():
        if keys:
            yield f"{counted(len(keys), 'tensor')} not in {name.upper()}: {_listed(keys)}"
    if found.shapes:
        yield f"{counted(len(found.shapes), 'tensor')} of different shapes: {_listed(list(found.shapes))}"
    for name, key in found.broken[:3]:
        yield f"{name.upper()}: '{printable(key)}' holds numbers that are not finite; it was not compared"
    if len(found.broken) > 3:
        yield f"and {len(found.broken) - 3} more tensors that are not finite; see --json"


def relations(found: Difference) -> list[str]:
    """Who is whose relative, in words, by the matrices: norms and biases are alike in any two models."""
    rows = [row for row in found.rows if row.matrix]
    cosines = {pair: found.total(pair, rows).cosine for pair in found.pairs}
    said = [_related(pair, found, rows) for pair in found.pairs]
    if len(found.models) == 3 and all(cosine >= RELATED for cosine in cosines.values()):
        said += _family({name: found.agreement(name, rows) for name in found.models})
    return said


def _related(pair: Pair, found: Difference, rows: Sequence[Row]) -> str:
    sums, (one, two) = found.total(pair, rows), (name.upper() for name in pair)
    if not sums.tensors:
        return f"{one} and {two} have no matrix in common"
    if sums.identical == sums.tensors:
        return f"{two} and {one} have the same matrices, number by number"
    size = f"cosine of their matrices {sums.cosine:.4f}, |{two} - {one}| is {sums.relative:.2%} of |{one}|"
    if sums.cosine >= RELATED:
        return f"{two} and {one} are relatives, one a fine-tune of the other or both of a third: {size}"
    return f"{two} is no fine-tune of {one}: {size}"


def _family(corners: Mapping[str, float]) -> list[str]:
    """Which of three relatives is between the others."""
    if any(math.isnan(cosine) for cosine in corners.values()):
        return []  # two are equal, which is said already
    middle = min(corners, key=lambda name: corners[name])
    cosine, (one, two) = corners[middle], (name.upper() for name in corners if name != middle)
    between, angle = middle.upper(), f"the cosine between the ways to {one} and to {two} is {cosine:.2f}"
    if cosine < BETWEEN:
        return [f"{between} lies between {one} and {two}, as their merge would: {angle}"]
    if cosine < MIDDLE:
        return [f"{one} and {two} are fine-tunes of {between}, or one of them is its ancestor: {angle}"]
    return [f"none is the ancestor of both others, they all come from another model: {angle}, and at no model less"]


def as_data(found: Difference) -> dict[str, Any]:
    """Everything as plain data; a measure that is not defined is null."""
    matrices = [row for row in found.rows if row.matrix]
    return {
        "models": {
            name: {
                "path": str(model.path),
                "kind": model.kind.name,
                "prediction": model.prediction,
                "dtypes": dict(Counter(model.stored.values())),
                "lacks": found.lacking[name],
            }
            for name, model in found.models.items()
        },
        "relations": relations(found),
        "all": _measures(found, found.rows),
        "matrices": _measures(found, matrices),
        **{title: {name: _measures(found, rows) for name, rows in g.items()} for title, g in _groups(found).items()},
        "cells": {name: _measures(found, rows) for name, rows in found.grouped(_cell_name).items()},
        "shapes": found.shapes,
        "not_finite": [{"model": name, "tensor": key} for name, key in found.broken],
    }


def heat_map(found: Difference, path: Path) -> None:
    """A picture of blocks by parts of them: for each two models the relative difference, of three also the agreement.

    Raises:
        OSError: it cannot be written.
    """
    cells = found.grouped(_cell_name)
    maps = [(_arrow(pair), "log10 of the relative norm", _logarithms(found, pair)) for pair in found.pairs]
    if len(found.models) == 3:
        agreements = {_cell(rows[0]): found.agreement("c", rows) for rows in cells.values()}
        maps.append(("A - C against B - C", "cosine", agreements))
    figure = new_figure(1.2 + 3.6 * len(maps), 7.4)
    for number, (title, label, numbers) in enumerate(maps):
        axes = figure.add_subplot(1, len(maps), number + 1)
        draw_cells(axes, numbers, title, _places(found), label, centred=label == "cosine")
    figure.supxlabel("white: identical, or in one model only", fontsize=8)
    write_plot(figure, path)


def _logarithms(found: Difference, pair: Pair) -> dict[tuple[str, str], float]:
    sums = {_cell(rows[0]): found.total(pair, rows) for rows in found.grouped(_cell_name).values()}
    return {cell: math.log10(one.relative) if one.first and one.apart else math.nan for cell, one in sums.items()}


def _groups(found: Difference) -> dict[str, dict[str, list[Row]]]:
    blocks = found.grouped(lambda row: row.place)
    parts = found.grouped(lambda row: row.part)
    return {
        "blocks": {name: blocks[name] for name in _places(found)},
        "elements": {name: parts[name] for name in sorted(parts)},
    }


def _places(found: Difference) -> list[str]:
    """The rows: blocks in their order, then slots and what else there is."""
    order = found.models["a"].architecture.blocks
    there = {row.place: None for row in found.rows}
    return [*(name for name in order if name in there), *sorted(name for name in there if name not in order)]


def _cell(row: Row) -> tuple[str, str]:
    return row.place, row.part


def _cell_name(row: Row) -> str:
    return f"{row.place}.{row.part}"


def _arrow(pair: Pair) -> str:
    return f"{pair[0].upper()} to {pair[1].upper()}"


def _measures(found: Difference, rows: Sequence[Row]) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for pair in found.pairs:
        sums = found.total(pair, rows)
        share = sums.identical / sums.tensors if sums.tensors else math.nan
        measured["-".join(pair)] = {
            "tensors": sums.tensors, "numbers": sums.numbers, "cosine": _defined(sums.cosine),
            "relative": _defined(sums.relative), "identical": _defined(share),
        }  # fmt: skip
    if len(found.models) == 3:
        measured["agreement"] = {name: _defined(found.agreement(name, rows)) for name in found.models}
    return measured


def _defined(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _table(found: Difference, title: str, groups: Mapping[str, list[Row]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("numbers", justify="right")
    for pair in found.pairs:
        for measure in ("cosine", "relative", "identical"):
            table.add_column(f"{_arrow(pair)}\n{measure}", justify="right")
    if len(found.models) == 3:
        table.add_column("A - C, B - C\ncosine", justify="right")
    for name, rows in groups.items():
        table.add_row(Text(printable(name)), *_cells(found, rows))
    table.add_section()
    table.add_row("all", *_cells(found, found.rows))
    return table


def _cells(found: Difference, rows: Sequence[Row]) -> list[str]:
    sums = [found.total(pair, rows) for pair in found.pairs]
    cells = [f"{max(one.numbers for one in sums):,}"]
    for one in sums:
        share = one.identical / one.tensors if one.tensors else math.nan
        cells += [_shown(one.cosine, ".4f"), _shown(one.relative, ".2%"), _shown(share, ".0%")]
    return [*cells, _shown(found.agreement("c", rows), ".2f")] if len(found.models) == 3 else cells


def _shown(number: float, form: str) -> str:
    return format(number, form) if math.isfinite(number) else ""


def _about(name: str, path: Path, what: str, dtypes: Mapping[str, str], prediction: str) -> str:
    counts = ", ".join(f"{count} {dtype}" for dtype, count in Counter(dtypes.values()).most_common())
    predicts = f", predicts {prediction}" if prediction else ""
    return f"{name.upper()}: {printable(str(path), longest=200)}: {what}{predicts}, tensors: {counts}"


def _listed(keys: Sequence[str]) -> str:
    return one_line(and_more([printable(key) for key in keys]), longest=300)
