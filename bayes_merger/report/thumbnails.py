"""Small copies of pictures for a page or a sheet. A picture file may be anything: what cannot be read is missing."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 64 * 1024 * 1024
"""Pixels of a picture that is still opened."""

QUALITIES = (80, 60, 40, 20)


def opened(path: Path, side: int) -> Image.Image | None:
    """A picture no larger than ``side`` pixels either way; None if there is none, or none that can be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                return None
            image.draft("RGB", (side, side))
            small = image.convert("RGB")
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            return small
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def data_uri(path: Path, side: int, largest: int) -> str:
    """A picture as a WebP inside of an address; empty if there is none.

    Args:
        path: of the picture.
        side: at most so many pixels either way.
        largest: bytes; a picture that needs more loses quality, then size.
    """
    image = opened(path, side)
    while image is not None:
        for quality in QUALITIES:
            written = io.BytesIO()
            image.save(written, "WEBP", quality=quality, method=2)
            if written.tell() <= largest or max(image.size) <= 32:
                return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()
        image.thumbnail((max(image.size) // 2, max(image.size) // 2))
    return ""
