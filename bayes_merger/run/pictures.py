"""What is done with a trial's pictures besides judging them: a grid to look at, and what they say about themselves."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from bayes_merger.atomic import put_in_place, write_atomically
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.merging.recipe.recipe import MergeRecipe

_TILE = 512  # pixels, longest side of a picture in a grid
_LARGEST = 4096  # pixels, longest side of a grid
_SIGNATURE = 8  # bytes that a PNG begins with


def write_grid(path: Path, images: Sequence[DrawnImage]) -> None:
    """Replace a file by pictures side by side, row by row; whoever reads it sees the old one or the new one."""
    side_by_side(path, [image.image for image in images])


def side_by_side(path: Path, images: Sequence[Image.Image], columns: int = 0) -> None:
    """The same of plain pictures, in so many columns; 0: about as many as rows."""
    columns = columns or _columns(images)
    data = io.BytesIO()
    tiled(images, columns, min(_TILE, _LARGEST // columns)).save(data, format="PNG")
    write_atomically(path, data.getvalue())


def tiled(images: Sequence[Image.Image], columns: int = 0, tile: int = _TILE) -> Image.Image:
    """Pictures side by side, row by row, each at most ``tile`` pixels either way; 0 columns: about as many as rows."""
    columns = columns or _columns(images)
    small = [image.copy() for image in images]
    for picture in small:
        picture.thumbnail((tile, tile))
    width, height = max(one.width for one in small), max(one.height for one in small)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(small) / columns) * height))
    for number, picture in enumerate(small):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def _columns(images: Sequence[Image.Image]) -> int:
    return math.ceil(math.sqrt(len(images)))


def describe(paths: Iterable[Path], study: str, trial: int, recipe: MergeRecipe, points: float | None = None) -> None:
    """Write into a trial's pictures whose they are, which merge, and what it got, beside what web UIs read."""
    got = {} if points is None else {"Score": f"{points:.4f}"}
    texts = {"Study": study, "Trial": str(trial), **got, "Recipe": recipe.digest}
    for path in paths:
        add_texts(path, texts)


def add_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Add texts to a PNG that is there, without touching its picture; see https://www.w3.org/TR/png-3/#11textinfo.

    Args:
        path: the file.
        texts: keyword, 1 to 79 letters of ASCII, to text.
    """
    data, at = path.read_bytes(), _SIGNATURE
    while data[at + 4 : at + 8] != b"IDAT":  # programs that only look read no further than the picture's first chunk
        at += struct.unpack_from(">I", data, at)[0] + 12
    chunks = b"".join(_chunk(b"iTXt", f"{key}\0\0\0\0\0{text}".encode()) for key, text in texts.items())
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data[:at] + chunks + data[at:])
    put_in_place(temporary, path)


def without_texts(data: bytes) -> bytes:
    """A PNG without the texts in it; what is no PNG gets back as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, at = [data[:_SIGNATURE]], _SIGNATURE
    while at + 12 <= len(data):
        end = at + struct.unpack_from(">I", data, at)[0] + 12
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def forget(paths: Iterable[Path]) -> None:
    """Delete pictures, and the folder that is empty then."""
    for path in paths:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
