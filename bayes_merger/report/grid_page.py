"""A grid of merges as one page that needs nothing else: no request leaves it, and nothing that is typed can run in it.

Each distinct picture and recipe lies in it once, as data; the page's own policy allows its one script by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from bayes_merger import __version__
from bayes_merger.atomic import write_atomically
from bayes_merger.errors import StorageError, printable, trouble
from bayes_merger.imaging.payload.infotext import infotext
from bayes_merger.report.grid_sheet import cell_image
from bayes_merger.report.page import static
from bayes_merger.report.thumbnails import uri_of
from bayes_merger.run.xy.drawing import Pictures
from bayes_merger.run.xy.grid import Grid

SIDE, BYTES, MOST_BYTES = 1024, 200_000, 60_000_000
"""Pixels a side and bytes of a picture, and bytes of all of them."""


def write_page(grid: Grid, pictures: Pictures, path: Path) -> None:
    """Write the page.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        write_atomically(path, page_of(grid, pictures))
    except OSError as error:
        raise StorageError(trouble(error) or f"{path}: {error}") from error


def page_of(grid: Grid, pictures: Pictures) -> str:
    """The grid as HTML."""
    script = static("grid.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    data, places = _data(grid, pictures)
    held = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    models = " × ".join(_text(Path(m.path).stem) for m in next(iter(grid.cells.values())).merge.recipe.models.values())
    axes = ", ".join(f"{axis.place}: {_text(axis.kind)}" for axis in grid.axes)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{axes}</title>\n<style>\n{static('grid.css')}</style>\n</head>\n<body>\n"
        f'<h1>{models}</h1><p class="about">{axes} · '
        '<label>size <input id="side" type="range" min="64" max="512" value="200"></label></p>\n'
        + "".join(_table(grid, pictures, page, title, places) for page, title in enumerate(grid.titles("z")))
        + '<dialog aria-label="one cell"><p><b></b></p><img alt=""><p class="words"></p><menu>'
        '<button type="button" data-do="back" aria-label="the cell before">&larr;</button>'
        '<button type="button" data-do="on" aria-label="the next cell">&rarr;</button>'
        '<button type="button" data-do="blink" aria-pressed="false">blink with the unmerged one (b)</button>'
        '<button type="button" data-do="copy">copy recipe</button>'
        '<button type="button" data-do="close">close</button></menu></dialog>\n'
        "<footer>Hold a large picture, or the space bar, to see model A in its place. A copied recipe, saved as "
        "recipe.json, is made by <b>bayes-merger merge recipe.json --out merged.safetensors</b>. "
        f"bayes_merger {__version__}</footer>\n"
        f'<script type="application/json" id="data">{held}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def _text(value: object, longest: int = 200) -> str:
    return escape(printable(str(value), longest=longest))


def _lines(text: str) -> str:
    return "\n".join(printable(line, longest=1000) for line in text.split("\n"))


def _data(grid: Grid, pictures: Pictures) -> tuple[dict[str, Any], dict[tuple[int, int, int], int]]:
    """What the script shows, and which of its cells each place has that could be drawn."""
    keys = list(dict.fromkeys(pictures.key(cell) for cell in grid.every))
    cells = {pictures.key(cell): cell for cell in grid.every}
    largest = min(BYTES, MOST_BYTES // len(keys))
    drawn = [key for key in keys if pictures.paths(cells[key])]
    numbers = {key: number for number, key in enumerate(drawn)}
    addresses: list[str] = []
    ratio = 0.0  # the least height that all cells have room in
    for key in drawn:
        image = cell_image(pictures, cells[key], SIDE)
        addresses.append(uri_of(image, largest) if image else "")
        ratio = max(ratio, image.height / image.width if image else 0.0)
    merges = _numbered(cell.merge.key for cell in grid.cells.values())
    recipes = {cell.merge.key: cell.merge.recipe for cell in grid.cells.values()}
    texts = {
        id(cell.payloads): "\n".join(_lines(infotext(one, 0)) for one in cell.payloads) for cell in grid.cells.values()
    }
    words = _numbered(texts)
    found: list[dict[str, int]] = []
    places: dict[tuple[int, int, int], int] = {}
    for place, cell in grid.cells.items():
        key, unmerged = pictures.key(cell), pictures.key(grid.unmerged[place])
        if key in numbers:
            places[place] = len(found)
            found.append({
                "picture": numbers[key], "unmerged": numbers.get(unmerged, numbers[key]),
                "recipe": merges[cell.merge.key], "words": words[id(cell.payloads)],
            })  # fmt: skip
    return {
        "pictures": addresses,
        "ratio": ratio or 1.0,
        "recipes": [json.dumps(recipes[key].to_json()) for key in merges],
        "words": [texts[key] for key in words],
        "cells": found,
    }, places


def _numbered(keys: Iterable[Any]) -> dict[Any, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}


def _table(grid: Grid, pictures: Pictures, page: int, title: str, places: dict[tuple[int, int, int], int]) -> str:
    heads = "".join(f"<th scope=col>{_text(name)}</th>" for name in grid.titles("x"))
    rows = ""
    for row, name in enumerate(grid.titles("y")):
        cells = ""
        for column, head in enumerate(grid.titles("x")):
            place = (page, row, column)
            label = ", ".join(filter(None, (_text(title), _text(name), _text(head))))
            points = pictures.points.get(pictures.key(grid.cells[place]))
            label += "" if points is None else f": {points:.2f} points"
            if place in places:
                image = '<img alt="" loading="lazy" decoding="async">'
                image += "" if points is None else f"<span>{points:.2f}</span>"
                cells += (
                    f'<td><button type="button" data-cell="{places[place]}" aria-label="{label}">{image}</button></td>'
                )
            else:
                why = pictures.failed.get(pictures.key(grid.cells[place]), "the picture is gone")
                cells += f"<td><p>{_text(why)}</p></td>"
        rows += f"<tr><th scope=row>{_text(name)}</th>{cells}</tr>"
    above = f"<h2>{_text(title)}</h2>" if title else ""
    return (
        f'{above}<div class="grid"><table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>\n'
    )
