"""What parts of a model do to pictures, for people and programs: a table, a heat map, moving pictures."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bayes_merger.errors import printable
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.report.figures import draw_cells, new_figure, write_plot
from bayes_merger.report.tables import with_error
from bayes_merger.report.thumbnails import opened, write_image
from bayes_merger.run.effect.entries import Entry
from bayes_merger.run.effect.kept import key_of
from bayes_merger.run.effect.measuring import Effect

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 4
"""Pictures of an entry, side by side, in its moving picture."""

CELL, ACROSS, CHECKED = 128, 8, 64
"""Pixels of a picture on the sheet of all entries, pictures beside each other, and entries on it."""

MODEL_A = "model A"
"""The folder of the unmerged pictures."""

PAUSE = 1000
"""Milliseconds that each of its frames is shown."""


def table(effects: Sequence[Effect]) -> Table:
    """The entries that were drawn, those that change most first."""
    drawn = sorted((e for e in effects if e.measures), key=lambda e: -e.measures["changed"].mean)
    names = list(drawn[0].measures) if drawn else ["changed"]
    found = Table()
    for name in ("entry", "|B - A|", *(f"{name} %" if name == "changed" else name for name in names)):
        found.add_column(Text(printable(name)), no_wrap=True)
    for effect in drawn:
        cells = [with_error(effect.measures[n].mean, effect.measures[n].error) for n in names]
        found.add_row(Text(printable(effect.entry.name)), f"{effect.entry.relative:.2%}", *cells)
    return found


def heat_map(effects: Sequence[Effect], path: Path) -> None:
    """Percent of changed values: blocks by their parts, or where whole entries were measured, entries by payloads.

    Raises:
        OSError: it cannot be written.
    """
    parts = any(effect.entry.part for effect in effects)
    cells: dict[tuple[str, str], float] = {}
    for effect in effects:
        entry, measure = effect.entry, effect.measures.get("changed")
        if measure and parts:
            row = entry.block if entry.block and entry.ratio == 1 else entry.name
            cells[row, entry.part or "(all)"] = measure.mean
        elif measure:
            for payload in effect.payloads:
                own = zip(effect.payloads, measure.values, strict=True)
                cells[entry.name, payload] = statistics.fmean(value for name, value in own if name == payload)
    order = list(dict.fromkeys(row for row, _ in cells))
    figure = new_figure(3 + 0.35 * len({column for _, column in cells}), max(2.6, 1.8 + 0.22 * len(order)))
    draw_cells(figure.add_subplot(), cells, "what B changes in A's pictures", order, "changed values, %")
    write_plot(figure, path)


def animate(effect: Effect, before: Sequence[DrawnImage], after: Sequence[DrawnImage], path: Path) -> None:
    """Before, after and their difference (white: none), one after the other.

    Raises:
        StorageError: it cannot be written.
    """
    from PIL import ImageChops, ImageOps

    pairs = list(zip(before, after, strict=True))
    shown = [pairs[i * len(pairs) // min(SHOWN, len(pairs))] for i in range(min(SHOWN, len(pairs)))]
    ones, twos = ([pair[side].image.convert("RGB") for pair in shown] for side in (0, 1))
    apart = [ImageOps.invert(ImageChops.difference(*pair)) for pair in zip(ones, twos, strict=True)]
    measure = effect.measures["changed"]
    changes = f"{measure.mean:.2f}% of values changed"
    name = printable(effect.entry.name, longest=40)
    captions = ("model A", f"with {name} of B", f"{name}: {changes}")
    frames = [_row(images, caption) for images, caption in zip((ones, twos, apart), captions, strict=True)]
    write_image(frames[0], path, frames[1:], PAUSE)


def checker(effects: Sequence[Effect], pictures: Path, path: Path) -> None:
    """One picture of each entry that was drawn, those that change most first, over its difference to model A's.

    Args:
        effects: of the entries.
        pictures: the folder of their pictures.
        path: of the sheet; it has no more than ``CHECKED`` entries.

    Raises:
        StorageError: it cannot be written.
    """
    from PIL import Image

    drawn = sorted((e for e in effects if e.measures), key=lambda e: -e.measures["changed"].mean)[:CHECKED]
    payloads = drawn[0].payloads
    livelier = max(range(len(payloads)), key=lambda i: sum(e.measures["changed"].values[i] for e in drawn))
    name = f"{payloads[livelier]}-{payloads[:livelier].count(payloads[livelier])}.png"
    before = opened(pictures / MODEL_A / name, CELL)
    cells = [_cell(before, None, MODEL_A)]
    for effect in drawn:
        caption = f"{effect.measures['changed'].mean:.1f}% {printable(effect.entry.name)}"
        cells.append(_cell(opened(pictures / file_name(effect.entry) / name, CELL), before, caption))
    edge, across = 6, min(ACROSS, len(cells))
    wide, high = (length + edge for length in cells[0].size)
    found = Image.new("RGB", (across * wide + edge, -(-len(cells) // across) * high + edge), "white")
    for number, cell in enumerate(cells):
        found.paste(cell, (edge + number % across * wide, edge + number // across * high))
    write_image(found, path)


def _cell(image: Image.Image | None, before: Image.Image | None, caption: str) -> Image.Image:
    """A picture, what it is, and how it differs from that before (white: not at all)."""
    from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

    foot = 16
    found = Image.new("RGB", (CELL, 2 * CELL + foot), "white")
    apart = ImageOps.invert(ImageChops.difference(before, image)) if before and image else None
    for part, top in ((image, 0), (apart, CELL + foot)):
        if part is not None:
            found.paste(ImageOps.contain(part, (CELL, CELL), Image.Resampling.NEAREST), (0, top))
    ImageDraw.Draw(found).text((0, CELL + 1), caption, fill="black", font=ImageFont.load_default(10))
    return found


def _row(images: Sequence[Image.Image], caption: str) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    side = max(192, min(384, max(max(image.size) for image in images)))
    edge, foot = 6, 28
    found = Image.new("RGB", (max(len(images) * (side + edge) + edge, 420), side + edge + foot), "white")
    for number, image in enumerate(images):
        share = side / max(image.size)
        size = (round(image.width * share), round(image.height * share))
        found.paste(image.resize(size, Image.Resampling.NEAREST if share > 1 else Image.Resampling.LANCZOS),
                    (edge + number * (side + edge), edge))  # fmt: skip
    ImageDraw.Draw(found).text((edge, side + edge + 5), caption, fill="black", font=ImageFont.load_default(15))
    return found


def file_name(entry: Entry) -> str:
    """A name for an entry's pictures that any file system takes, and no other entry has."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', entry.name).strip('_')[:60]}-{key_of(entry)[:6]}"
