"""Pictures as a page shows them: small ones for a first look, whole ones without what their file says about them."""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from bayes_merger.errors import StorageError
from bayes_merger.paths import open_regular

SIDE = 768
"""Pixels of a preview's longer side, at most."""

LARGEST = 64 << 20
"""Bytes of a picture's file; those of a drawn picture have a few millions."""

PIXELS = 64 << 20
"""Pixels of a picture."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ABOUT = (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tIME")


class BrokenPicture(StorageError):
    """A file that shows nothing."""


class Previews:
    """WebP pictures of at most :data:`SIDE` pixels, the latest ones kept.

    Args:
        kept: how many; one has some 100 KB.
    """

    def __init__(self, kept: int = 128) -> None:
        self._kept = kept
        self._made: OrderedDict[Path, bytes] = OrderedDict()

    def of(self, path: Path) -> bytes:
        """The preview of a picture.

        Raises:
            BrokenPicture: the file is gone, or no picture of a size that is drawn.
        """
        made = self._made.pop(path, None) or _preview(path)
        self._made[path] = made
        while len(self._made) > self._kept:
            self._made.popitem(last=False)
        return made


def _preview(path: Path) -> bytes:
    try:
        with Image.open(io.BytesIO(_content(path)), formats=["PNG"]) as image:
            if image.width * image.height > PIXELS:
                raise BrokenPicture("this picture is too large to be shown")
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenPicture(f"this picture cannot be shown ({type(error).__name__})") from error
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "WEBP", quality=92, method=2)
    return written.getvalue()


def without_texts(path: Path) -> bytes:
    """A PNG file without its texts, which name the merge; every pixel stays.

    Raises:
        BrokenPicture: the file is gone, or no PNG.
    """
    data = _content(path)
    if not data.startswith(_SIGNATURE):
        raise BrokenPicture("this picture cannot be shown (no PNG)")
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    while place + 12 <= len(data):  # length, kind, content, checksum: https://www.w3.org/TR/png/#5Chunk-layout
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind not in _ABOUT:
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BrokenPicture(f"this picture cannot be read ({error.strerror})") from error
    if len(data) > LARGEST:
        raise BrokenPicture("this picture is too large to be shown")
    return data
