"""What web UIs write into the files of their pictures: text in PNG, EXIF in JPEG and WebP.

A1111, Forge and Civitai write their parameters as text (`payload.infotext`), ComfyUI its graph as JSON
(`payload.comfyui`). Pictures come from anybody: nothing is decoded but these texts, and they are of limited size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from bayes_merger.documents import LARGEST
from bayes_merger.errors import ConfigError
from bayes_merger.paths import open_regular

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp")
_LARGEST_FILE = 128 << 20  # bytes
_MOST_TEXTS = 100
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF_HEADER = b"Exif\0\0"
_CODES = (b"ASCII", b"UNICODE", b"JIS", b"")
_MAKE, _MODEL, _EXIF, _USER_COMMENT = 0x010F, 0x0110, 0x8769, 0x9286
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}  # EXIF's type -> bytes of a value


def is_picture(path: Path) -> bool:
    """Whether a file is called like a picture."""
    return path.suffix.lower() in SUFFIXES


def texts_of(path: Path) -> dict[str, str]:
    """The texts in a picture: of a PNG by their keywords; of others `parameters`, or ComfyUI's names.

    Raises:
        ConfigError: it cannot be read, is no such picture, or is damaged. The text does not name the file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror or error})") from None
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"has more than {_LARGEST_FILE >> 20} MiB, too much for a picture")
    try:
        if data.startswith(_PNG):
            return dict(_of_png(data))
        if data.startswith(b"\xff\xd8"):
            return _of_exif(_jpeg_exif(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _of_exif(_webp_exif(data))
    except (struct.error, zlib.error, UnicodeDecodeError, IndexError) as error:
        raise ConfigError(f"is a damaged picture ({error})") from None
    raise ConfigError("is no PNG, JPEG or WebP")


def _of_png(data: bytes) -> Iterator[tuple[str, str]]:
    """Keyword and text of the chunks that have some (https://www.w3.org/TR/png-3/#11textinfo)."""
    at, found = len(_PNG), 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8 : at + 8 + size]
        at += size + 12
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            continue
        found += 1
        if found > _MOST_TEXTS:
            raise ConfigError(f"holds more than {_MOST_TEXTS} texts, too many for a picture")
        if kind == b"eXIf":
            yield from _of_exif(chunk).items()
            continue
        keyword, _, rest = chunk.partition(b"\0")
        if kind == b"zTXt":
            rest = _inflated(rest[1:])
        elif kind == b"iTXt":
            text = rest[2:].split(b"\0", 2)[-1]  # behind the language, and the keyword in it
            rest = _inflated(text) if rest[:1] == b"\1" else text
        yield keyword.decode("latin-1"), _text(_bounded(rest))


def _text(data: bytes) -> str:
    """Text in UTF-8, which many programs write where the standard wants Latin-1; else in that."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _inflated(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, LARGEST + 1)


def _bounded(text: bytes) -> bytes:
    if len(text) > LARGEST:
        raise ConfigError(f"holds a text of more than {LARGEST >> 20} MiB, too much for a picture")
    return text


def _jpeg_exif(data: bytes) -> bytes:
    """The EXIF block of a JPEG, empty where there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        (size,) = struct.unpack_from(">H", data, at + 2)
        block = data[at + 4 : at + 2 + size]
        if data[at + 1] == 0xE1 and block.startswith(_EXIF_HEADER):
            return block.removeprefix(_EXIF_HEADER)
        at += 2 + size
    return b""


def _webp_exif(data: bytes) -> bytes:
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            return data[at + 8 : at + 8 + size].removeprefix(_EXIF_HEADER)
        at += 8 + size + size % 2
    return b""


def _of_exif(exif: bytes) -> dict[str, str]:
    """The comment of a picture; and where ComfyUI has put its graphs, those: `prompt:{...}` and `workflow:{...}`."""
    if exif[:2] not in (b"II", b"MM"):
        return {}
    order = "<" if exif[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", exif, 4)
    tags = dict(_tags(exif, order, first))
    if _EXIF in tags:
        (below,) = struct.unpack_from(f"{order}I", tags[_EXIF])
        tags |= {tag: value for tag, value in _tags(exif, order, below) if tag == _USER_COMMENT}
    texts = {}
    for tag in (_MAKE, _MODEL):
        name, colon, text = tags.get(tag, b"").decode("utf-8", "replace").rstrip("\0").partition(":")
        if colon and name.lower() in ("prompt", "workflow"):
            texts[name.lower()] = text
    if comment := tags.get(_USER_COMMENT):
        texts["parameters"] = _comment(comment, order)
    return texts


def _tags(exif: bytes, order: str, at: int) -> Iterator[tuple[int, bytes]]:
    """The tags of a directory and their bytes (https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf)."""
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, at + 2 + 12 * min(count, _MOST_TEXTS), 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", exif, entry)
        size = _BYTES.get(kind, 0) * length
        (place,) = struct.unpack_from(f"{order}I", exif, entry + 8) if size > 4 else (entry + 8,)
        yield tag, _bounded(exif[place : place + size])


def _comment(comment: bytes, order: str) -> str:
    """A text behind its code; its 16 bit letters are in the order of the file or in the other one."""
    code, text = comment[:8].rstrip(b"\0"), comment[8:].rstrip(b"\0")
    if code not in _CODES:
        return _text(comment).strip("\0")
    low, high = text[::2].count(0), text[1::2].count(0)
    if code != b"UNICODE" or (not low + high and _is_utf8(text)):  # some write UTF-8 behind any code
        return _text(text)
    little = high > low if high != low else order == "<"
    return comment[8:].decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0\ufeff")


def _is_utf8(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False
