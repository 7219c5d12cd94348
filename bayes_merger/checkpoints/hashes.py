"""The SHA-256 of model files, remembered: reading gigabytes again at every start tells nothing new.

A hash is believed only for the file it was made of, as that was: same device, inode, size, time of the last change to
its content and to its entry in the file system. What is remembered lies in ``hashes/`` of the user's cache folder, one
small file for each model; whatever else lies there is ignored, and deleting it is safe.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from pathlib import Path

from bayes_merger.atomic import write_atomically
from bayes_merger.paths import cache_folder, open_regular

log = logging.getLogger(__name__)

SETTLED = 2.0
"""Seconds for which a file must have been left alone: no file system's clock is coarser, so a later change shows."""

_LINE = re.compile(r"(\d+ \d+ \d+) ([0-9a-f]{64})\n", re.ASCII)


def sha256_of(path: Path, settled: float = SETTLED) -> str:
    """The SHA-256 of a whole file, in hex: remembered, or computed (about a second per gigabyte).

    Args:
        path: of the file.
        settled: seconds for which it must have been left alone for its hash to be remembered.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        note, state = _note(before), _state(before)
        if known := _remembered(note, state):
            return known
        found = hashlib.file_digest(file, "sha256").hexdigest()
        touched = max(before.st_mtime, before.st_ctime)
        if touched <= time.time() - settled and _state(os.fstat(file.fileno())) == state:
            _remember(note, f"{state} {found}\n")
    return found


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file if it is remembered, else nothing.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return _remembered(_note(found), _state(found))


def _state(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _note(found: os.stat_result) -> Path:
    return cache_folder() / "hashes" / f"{found.st_dev:x}-{found.st_ino:x}"


def _remembered(note: Path, state: str) -> str:
    try:
        with open_regular(note) as file:
            line = _LINE.fullmatch(file.read(200).decode("ascii"))
    except (OSError, UnicodeDecodeError):
        return ""
    return line[2] if line and line[1] == state else ""


def _remember(note: Path, line: str) -> None:
    try:
        write_atomically(note, line)
    except OSError as error:  # a cache that cannot be written: hashed at every start then
        log.debug("%s cannot be written (%s)", note, error)
