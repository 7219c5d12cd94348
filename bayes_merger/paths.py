"""Paths as people write them, and files as they may lie there: a pipe among them, or one without an end."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path
from typing import BinaryIO


def user_path(path: str | Path) -> Path:
    """A path that a person wrote: ``~`` and ``~name`` are homes where there is such a user, else plain names."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody is called so, or has no home
        return Path(path)


def quoted(text: str, windows: bool = os.name == "nt") -> str:
    """A text as one word of a command line that a person copies; only double quotes hold words together everywhere."""
    if not windows:
        return shlex.quote(text)
    from subprocess import list2cmdline

    return list2cmdline([text])


def cache_folder() -> Path:
    """Where things are kept that can be had again.

    It is `$BAYES_MERGER_CACHE`, or `bayes_merger` in the user's cache folder.
    """
    chosen = os.environ.get("BAYES_MERGER_CACHE")
    if chosen:
        return user_path(chosen)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bayes_merger"


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
