"""Small copies of pictures: within a size whatever the picture, and nothing where there is none."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from bayes_merger.errors import ConfigError
from bayes_merger.report.thumbnails import data_uri, opened, write_image


def read(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))


def test_a_picture_that_cannot_be_compressed_stays_within_the_bytes(tmp_path: Path) -> None:
    Image.effect_noise((320, 320), 100).convert("RGB").save(tmp_path / "noise.png")
    Image.new("RGB", (512, 256), "red").save(tmp_path / "plain.png")
    noise, plain = (data_uri(tmp_path / name, 320, 8000) for name in ("noise.png", "plain.png"))
    assert len(noise) < 8000 * 4 / 3 + 100
    assert max(read(noise).size) >= 80
    assert read(plain).size == (320, 160)


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n" + bytes(40), b"<svg onload=alert(1)>"])
def test_what_is_no_picture_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    assert opened(path, 64) is None
    assert data_uri(path, 64, 1000) == ""


def test_a_picture_is_written_in_the_form_that_its_name_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "red")
    write_image(image, tmp_path / "new" / "x.webp")
    with Image.open(tmp_path / "new" / "x.webp") as picture:
        assert picture.format == "WEBP"
    write_image(image, tmp_path / "x.gif", [Image.new("RGB", (8, 8), "blue")])
    with Image.open(tmp_path / "x.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 2
    with pytest.raises(ConfigError, match=r"end the name in .webp or .gif"):
        write_image(image, tmp_path / "x.png", [image])
