"""Pictures of several merges as one: to look at, and to send around."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError
from bayes_merger.report.thumbnails import opened

if TYPE_CHECKING:
    from PIL import Image

Picture = tuple[str, int]
"""A picture by its payload and a number."""


def sheet(
    columns: Mapping[str, Mapping[Picture, Path]], captions: Mapping[Picture, str], side: int = 384
) -> Image.Image:
    """Pictures as one: a column for each merge, a row for each prompt and seed.

    Args:
        columns: title -> picture -> its file.
        captions: of the rows, in their order.
        side: pixels of a picture.

    Raises:
        ConfigError: there is no picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not any(columns.values()):
        raise ConfigError("there are no pictures to put side by side: they were not kept, or are gone")
    edge, head = 8, max(22, side // 16)
    font = ImageFont.load_default(max(12, side // 24))
    width, height = edge + len(columns) * (side + edge), head + len(captions) * (side + head + edge)
    found = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(found)
    for column, (title, pictures) in enumerate(columns.items()):
        x = edge + column * (side + edge)
        pen.text((x, 3), title, fill="black", font=font)
        for row, picture in enumerate(captions):
            y = head + row * (side + head + edge)
            image = opened(pictures[picture], side) if picture in pictures else None
            if image is None:
                pen.rectangle((x, y, x + side, y + side), fill="#eeeeee")
                pen.text((x + edge, y + edge), "no picture", fill="#666666", font=font)
            else:
                found.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    for row, caption in enumerate(captions.values()):
        pen.text((edge, head + row * (side + head + edge) + side + 2), caption, fill="#444444", font=font)
    return found
