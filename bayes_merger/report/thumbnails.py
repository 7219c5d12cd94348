"""Small copies of pictures for a page or a sheet. A picture file may be anything: what cannot be read is missing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    return "" if image is None else uri_of(image, largest)


def uri_of(image: Image.Image, largest: int) -> str:
    """A picture as a WebP inside of an address; one that needs more bytes loses quality, then size."""
    while True:
        for quality in QUALITIES:
            written = io.BytesIO()
            image.save(written, "WEBP", quality=quality, method=2)
            if written.tell() <= largest or max(image.size) <= 32:
                return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()
        image = image.resize((max(image.width // 2, 1), max(image.height // 2, 1)))


def write_image(
    image: Image.Image, path: Path, frames: Sequence[Image.Image] = (), pause: int = 700, parameters: str = ""
) -> None:
    """A picture as a file, whole or not at all; its suffix says the form.

    Args:
        image: the picture, or the first frame.
        path: of the file.
        frames: those that follow, where it moves.
        pause: milliseconds that each is shown.
        parameters: the text in it that web UIs read; empty: none.

    Raises:
        StorageError: it cannot be written.
        ConfigError: no picture has that suffix, or none that moves.
    """
    form = path.suffix.removeprefix(".").lower()
    if form not in (MOVING if frames else STILL):
        raise ConfigError(f"{path}: not a form for this; end the name in .{' or .'.join(MOVING if frames else STILL)}")
    moving = {"save_all": True, "append_images": list(frames), "duration": pause, "loop": 0} if frames else {}
    written = io.BytesIO()
    texts = _texts(form, parameters) if parameters else {}
    image.save(written, "jpeg" if form == "jpg" else form, **moving, **texts)
    try:
        write_atomically(path, written.getvalue())
    except OSError as error:
        raise StorageError(trouble(error) or f"{path}: {error}") from error


def _texts(form: str, parameters: str) -> dict[str, Any]:
    """What saving takes to put a text where web UIs read it: a PNG's own, or EXIF's comment of the user."""
    from PIL import ExifTags, Image
    from PIL.PngImagePlugin import PngInfo

    if form == "png":
        info = PngInfo()
        info.add_text("parameters", parameters)
        return {"pnginfo": info}
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + parameters.encode("utf-16-be")
    return {"exif": exif}
