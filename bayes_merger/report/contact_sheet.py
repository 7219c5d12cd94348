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
        side: pixels of a picture; small ones are shown smaller, and none smaller than 192.

    Raises:
        ConfigError: there is no picture.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    if not any(columns.values()):
        raise ConfigError("there are no pictures to put side by side: they were not kept, or are gone")
    images = {name: {key: opened(path, side) for key, path in own.items()} for name, own in columns.items()}
    largest = max((max(image.size) for own in images.values() for image in own.values() if image), default=side)
    side = min(side, max(192, largest))
    edge, head, font = 8, max(22, side // 16), ImageFont.load_default(max(12, side // 24))
    width, height = edge + len(columns) * (side + edge), head + len(captions) * (side + head + edge)
    found = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(found)
    for column, (title, pictures) in enumerate(images.items()):
        x = edge + column * (side + edge)
        pen.text((x, 3), title, fill="black", font=font)
        for row, picture in enumerate(captions):
            y = head + row * (side + head + edge)
            image = pictures.get(picture)
            if image is None:
                pen.rectangle((x, y, x + side, y + side), fill="#eeeeee")
                pen.text((x + edge, y + edge), "no picture", fill="#666666", font=font)
            else:
                image = ImageOps.contain(image, (side, side))
                found.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    for row, caption in enumerate(captions.values()):
        pen.text((edge, head + row * (side + head + edge) + side + 2), caption, fill="#444444", font=font)
    return found
