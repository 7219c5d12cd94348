"""Previews: pictures as a page shows them at first, small enough for a phone on a slow network."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

from PIL import Image
from starlette.responses import Response

from bayes_merger.paths import open_regular
from bayes_merger.web.answers import NotFound

SIDE = 768
"""Pixels of a preview's longer side, at most."""

THUMBNAIL = 320
"""Pixels of a small one's."""

LARGEST = 64 << 20
"""Bytes of a picture's file; those of a drawn picture have a few millions."""

PIXELS = 64 << 20
"""Pixels of a picture."""


KEPT = {"cache-control": "private, max-age=86400, immutable"}
"""Headers of a picture: its address stands for it alone."""


class BrokenPicture(NotFound):
    """A file that shows nothing."""


class Previews:
    """WebP pictures, the latest ones kept.

    Args:
        kept: how many; one of :data:`SIDE` has some 100 KB.
        side: pixels of the longer side, at most.
    """

    def __init__(self, kept: int = 128, side: int = SIDE) -> None:
        self._kept, self._side = kept, side
        self._made: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def of(self, path: Path) -> bytes:
        """The preview of a picture.

        Raises:
            BrokenPicture: the file is gone, or no picture of a size that is drawn.
        """
        try:
            key = path, path.stat().st_mtime_ns  # the picture of what was drawn last is written over
        except OSError as error:
            raise BrokenPicture(f"this picture cannot be read ({error.strerror})") from error
        made = self._made.pop(key, None) or _preview(path, self._side)
        self._made[key] = made
        while len(self._made) > self._kept:
            self._made.popitem(last=False)
        return made


class Sizes:
    """Pictures in three sizes: ``small``, ``large`` and ``whole``."""

    def __init__(self) -> None:
        self._previews = {"small": Previews(512, THUMBNAIL), "large": Previews()}

    def answer(self, path: Path, size: str) -> Response:
        """A picture: WebP, or the file itself.

        Raises:
            NotFound: no such size, or the picture is gone.
        """
        if size == "whole":
            return Response(whole(path), media_type="image/png", headers=KEPT)
        if size not in self._previews:
            raise NotFound("size: must be small, large or whole")
        return Response(self._previews[size].of(path), media_type="image/webp", headers=KEPT)


def _preview(path: Path, side: int) -> bytes:
    try:
        with Image.open(io.BytesIO(whole(path)), formats=["PNG"]) as image:
            if image.width * image.height > PIXELS:
                raise BrokenPicture("this picture is too large to be shown")
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenPicture(f"this picture cannot be shown ({type(error).__name__})") from error
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "WEBP", quality=92, method=2)
    return written.getvalue()


def whole(path: Path) -> bytes:
    """A picture's file as it is.

    Raises:
        BrokenPicture: it is gone, or too large.
    """
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BrokenPicture(f"this picture cannot be read ({error.strerror})") from error
    if len(data) > LARGEST:
        raise BrokenPicture("this picture is too large to be shown")
    return data
