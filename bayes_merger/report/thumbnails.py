"""Small copies of pictures for a page or a sheet. A picture file may be anything: what cannot be read is missing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.atomic import write_atomically
from bayes_merger.errors import ConfigError, StorageError, trouble

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 64 * 1024 * 1024
"""Pixels of a picture that is still opened."""

STILL, MOVING = ("png", "webp", "jpg"), ("webp", "gif")
"""The forms of a picture that is written."""

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


def write_image(image: Image.Image, path: Path, frames: Sequence[Image.Image] = (), pause: int = 700) -> None:
    """A picture as a file, whole or not at all; its suffix says the form.

    Args:
        image: the picture, or the first frame.
        path: of the file.
        frames: those that follow, where it moves.
        pause: milliseconds that each is shown.

    Raises:
        StorageError: it cannot be written.
        ConfigError: no picture has that suffix, or none that moves.
    """
    form = path.suffix.removeprefix(".").lower()
    if form not in (MOVING if frames else STILL):
        raise ConfigError(f"{path}: not a form for this; end the name in .{' or .'.join(MOVING if frames else STILL)}")
    moving = {"save_all": True, "append_images": list(frames), "duration": pause, "loop": 0} if frames else {}
    written = io.BytesIO()
    image.save(written, "jpeg" if form == "jpg" else form, **moving)
    try:
        write_atomically(path, written.getvalue())
    except OSError as error:
        raise StorageError(trouble(error) or f"{path}: {error}") from error
