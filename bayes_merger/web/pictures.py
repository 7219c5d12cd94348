"""Previews: pictures as a page shows them at first, small enough for a phone on a slow network."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from bayes_merger.paths import open_regular
from bayes_merger.web.answers import NotFound

SIDE = 768
"""Pixels of a preview's longer side, at most."""

LARGEST = 64 << 20
"""Bytes of a picture's file; those of a drawn picture have a few millions."""

PIXELS = 64 << 20
"""Pixels of a picture."""


class BrokenPicture(NotFound):
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


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BrokenPicture(f"this picture cannot be read ({error.strerror})") from error
    if len(data) > LARGEST:
        raise BrokenPicture("this picture is too large to be shown")
    return data
