"""A grid of merges as one picture for each page, with labels, and with the text that web UIs read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.imaging.payload.infotext import infotext
from bayes_merger.report.thumbnails import opened, write_image
from bayes_merger.run.pictures import tiled
from bayes_merger.run.xy.drawing import Pictures
from bayes_merger.run.xy.grid import Cell, Grid

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 160, 512
"""Pixels, longer side of a cell."""

MOST_PIXELS, LONGEST = 48_000_000, 16_000
"""Of a sheet: pixels in all, and a side; WebP has at most 16,383."""

_GAP, _INK, _FAINT = 4, (20, 20, 20), (225, 225, 225)


def write_sheets(grid: Grid, pictures: Pictures, folder: Path) -> list[Path]:
    """``grid.png`` and ``grid.webp`` in a folder; of several pages ``grid-1.png`` and so on.

    Raises:
        StorageError: they cannot be written.
    """
    written = []
    for page, title in enumerate(grid.titles("z")):
        name = f"grid-{page + 1}" if grid.shape[0] > 1 else "grid"
        sheet = sheet_of(grid, pictures, page, title)
        for suffix in ("png", "webp"):
            path = folder / f"{name}.{suffix}"
            write_image(sheet, path, parameters=parameters_of(grid, page))
            written.append(path)
    return written


def parameters_of(grid: Grid, page: int) -> str:
    """How the first picture of a page is drawn, and which axes the grid has, in the words of A1111's X/Y/Z plot."""
    payload = grid.cells[page, 0, 0].payloads[0]
    told = [("Script", "X/Y/Z plot")]
    for axis in grid.axes:
        own = axis.values if axis.place != "z" else (axis.values[page],)
        values = " | ".join(" ".join(value.split()) for value in own).replace('"', "'")
        told += [(f"{axis.place.upper()} Type", axis.kind), (f"{axis.place.upper()} Values", f'"{values}"')]
    return infotext(payload, 0) + "".join(f", {name}: {value}" for name, value in told)


def cell_image(pictures: Pictures, cell: Cell, side: int) -> Image.Image | None:
    """All pictures of a cell as one, at most ``side`` pixels either way; None if they are not there."""
    images = [opened(path, side) for path in pictures.paths(cell)]
    there = [image for image in images if image is not None]
    if not there or len(there) < len(images):
        return None
    return tiled(there, tile=side // math.ceil(math.sqrt(len(there))))


def sheet_of(grid: Grid, pictures: Pictures, page: int, title: str = "") -> Image.Image:
    """One page as a picture: the columns' labels above, the rows' at the left."""
    from PIL import Image, ImageDraw

    _, rows, columns = grid.shape
    side = min(LARGEST, int((MOST_PIXELS / rows / columns) ** 0.5), LONGEST // (max(rows, columns) + 1))
    images = {(row, column): cell_image(pictures, grid.cells[page, row, column], side) for row in range(rows)
              for column in range(columns)}  # fmt: skip
    width, height = _cell_size([image for image in images.values() if image], side)
    font = _font(max(15, min(width, 2 * height) // 11))
    heads = [_wrapped(text, font, width - _GAP) for text in grid.titles("x")]
    names = [_wrapped(text, font, max(width, 12 * int(font.size))) for text in grid.titles("y")]
    line = int(1.25 * font.size)
    left = max((int(font.getlength(part)) for name in names for part in name), default=0) + 3 * _GAP
    top = line * (max(map(len, heads)) + bool(title)) + 2 * _GAP
    sheet = Image.new("RGB", (left + columns * (width + _GAP), top + rows * (height + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, _GAP), title, _INK, font)
    for column, head in enumerate(heads):
        _write(draw, head, (left + column * (width + _GAP) + width // 2, top - _GAP - line * len(head)), font, "ma")
    for row, name in enumerate(names):
        y = top + row * (height + _GAP)
        _write(draw, name, (left - 2 * _GAP, y + max(0, height - line * len(name)) // 2), font, "ra")
    for (row, column), image in images.items():
        corner = (left + column * (width + _GAP), top + row * (height + _GAP))
        if image is None:
            why = pictures.failed.get(pictures.key(grid.cells[page, row, column]), "the picture is gone")
            draw.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), _FAINT)
            small = _font(max(11, font.size * 2 // 3))
            _write(draw, _wrapped(why, small, width - 2 * _GAP)[: height // int(1.25 * small.size)],
                   (corner[0] + width // 2, corner[1] + _GAP), small, "ma")  # fmt: skip
        else:
            _paste(sheet, image, corner, (width, height))
            points = pictures.points.get(pictures.key(grid.cells[page, row, column]))
            if points is not None:
                _tag(draw, f"{points:.2f}", (corner[0], corner[1] + height), _font(max(11, font.size * 3 // 4)))
    return sheet


def _cell_size(images: Sequence[Image.Image], side: int) -> tuple[int, int]:
    """Pixels of all cells: small pictures are enlarged."""
    width, height = max((one.width for one in images), default=64), max((one.height for one in images), default=64)
    share = max(1.0, min(SMALLEST, side) / max(width, height))
    return round(width * share), round(height * share)


def _paste(sheet: Image.Image, image: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> None:
    from PIL import Image

    share = min(size[0] / image.width, size[1] / image.height)
    if share != 1:
        filters = Image.Resampling.NEAREST if share >= 2 else Image.Resampling.LANCZOS
        image = image.resize((round(image.width * share), round(image.height * share)), filters)
    sheet.paste(image, (corner[0] + (size[0] - image.width) // 2, corner[1] + (size[1] - image.height) // 2))


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], font: ImageFont.FreeTypeFont, anchor: str
) -> None:
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + number * int(1.25 * font.size)), text, _INK, font, anchor)


def _tag(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    """A number in the lower left corner of a cell."""
    draw.rectangle(draw.textbbox((corner[0] + 2, corner[1] - 2), text, font, "ld"), "white")
    draw.text((corner[0] + 2, corner[1] - 2), text, _INK, font, "ld")


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A label in lines that fit, parted behind spaces and signs where there are such."""
    lines, rest = [], text
    while rest:
        count = len(rest)
        while count > 1 and font.getlength(rest[:count].rstrip()) > width:
            count -= 1
        if count < len(rest):
            count = next((i for i in range(count, count // 2, -1) if not rest[i - 1].isalnum()), count)
        lines.append(rest[:count].strip())
        rest = rest[count:].lstrip()
    return lines or [""]


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has more letters than Pillow's own."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
