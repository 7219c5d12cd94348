"""Writing a file or a folder so that a power cut leaves either the old one or the new one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data``: temporary file beside it, fsync, rename, fsync of the folder."""
    content = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{hidden_name(path.name)}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # as little as could be written
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def hidden_name(name: str) -> str:
    """How what is written in the place of a file is called until it is whole, without its end.

    It is ``.NAME``, or a mark of it where nothing would fit behind that: file systems allow names of 255 bytes.
    """
    encoded = os.fsencode(name)
    return f".{name}" if len(encoded) <= _LONGEST else f".{hashlib.sha256(encoded).hexdigest()[:16]}"


_LONGEST = 255 - len(".") - len(".4194304.tmp")


def put_in_place(new: Path, path: Path, move: Callable[[Path, Path], object] = os.replace) -> None:
    """Rename a file to the name of one that somebody may be reading, for which Windows refuses it meanwhile.

    Args:
        new: the file.
        path: its name from now on.
        move: does it.

    Raises:
        OSError: it cannot be done, in this second either.
    """
    for pause in PAUSES:
        try:
            move(new, path)
        except PermissionError:
            time.sleep(pause)
        else:
            return
    move(new, path)


PAUSES = (0.01, 0.03, 0.1, 0.3, 0.5)
"""Seconds between two tries."""


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    with contextlib.suppress(OSError):  # Windows cannot open a folder; its renames are journalled
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_NEW, _FORMER = ".tmp", ".old"  # how the folders end that are beside the right one for a while


@contextlib.contextmanager
def folder_atomically(out: Path) -> Iterator[Path]:
    """A folder to write into, which is in the place of ``out`` at the end, and gone if anything goes wrong."""
    written = out.with_name(f"{hidden_name(out.name)}.{os.getpid()}{_NEW}")
    shutil.rmtree(written, ignore_errors=True)  # of a process that had this number before
    written.mkdir(parents=True)
    try:
        yield written
        _put_in_place(written, out)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _put_in_place(written: Path, out: Path) -> None:
    """Force a folder to disk and rename it; one that is there is deleted only when the new one is in its place."""
    for path in sorted(written.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(written)
    former = written.with_suffix(_FORMER)
    if out.exists():
        out.rename(former)
    try:
        written.rename(out)
    except OSError:
        if former.exists():
            former.rename(out)
        raise
    sync_folder(out.parent)
    shutil.rmtree(former, ignore_errors=True)


def sweep_folders(out: Path) -> None:
    """Put right what processes that died while they wrote ``out`` have left.

    What they began is deleted, and a former folder that they had put aside is put back.
    """
    for path in out.parent.glob(f"{glob.escape(hidden_name(out.name))}.*"):
        number = path.stem.rpartition(".")[2]
        if path.suffix not in (_NEW, _FORMER) or not number.isdecimal() or not path.is_dir() or _runs(int(number)):
            continue
        if path.suffix == _FORMER and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of this number may run."""
    if process == os.getpid() or os.name != "posix":  # elsewhere the question would end it
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
