"""Paths as people write them, and files as they may lie there: a pipe among them, or one without an end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def user_path(path: str | Path) -> Path:
    """A path that a person wrote: ``~`` and ``~name`` are homes where there is such a user, else plain names."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody is called so, or has no home
        return Path(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for ever where it is a pipe.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, a device.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_text(path: Path, limit: int = 2**24) -> str:
    """A small text file, in UTF-8 with or without a byte order mark.

    Args:
        path: of the file.
        limit: bytes that it may have.

    Raises:
        OSError: it cannot be read, is no regular file or too large.
        UnicodeDecodeError: it is in another encoding.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit // 2**20} MiB", str(path))
    return data.decode("utf-8-sig")
