"""What the system and its databases say becomes one line with the way out, however deep it is wrapped."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from bayes_merger.errors import trouble


def wrapped(error: BaseException) -> Exception:
    """As a library raises it again in its own words."""
    try:
        try:
            raise error
        except BaseException as inner:
            raise RuntimeError("An exception is raised during the commit") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "the disk is full; make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (OSError(errno.EFBIG, "File too large"), "a file may not grow further"),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), "runs/x is on a read-only disk"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "runs/x may not be read or written"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full; make room"),
        (sqlite3.OperationalError("database is locked"), "another program holds the study's database"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "may not be written"),
        (sqlite3.OperationalError("unable to open database file"), "gone or cannot be opened"),
        (sqlite3.OperationalError("disk I/O error"), "cannot be written"),
        (sqlite3.DatabaseError("database disk image is malformed"), "is damaged"),
        (sqlite3.OperationalError("something new"), "the study's database failed (something new)"),
        (MemoryError(), "there is not enough memory"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU has no memory left"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"), "the GPU has no memory left"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "generator.max_batch=1",
        ),
    ],
)
def test_trouble_of_the_surroundings_is_one_line(error: BaseException, said: str) -> None:
    for raised in (error, wrapped(error), wrapped(wrapped(error))):
        found = trouble(raised)
        assert found is not None
        assert said in found
        assert "\n" not in found


@pytest.mark.parametrize("error", [ValueError("disk is full"), KeyError("weights"), FileNotFoundError(2, "gone")])
def test_a_fault_of_our_own_stays_one(error: Exception) -> None:
    assert trouble(error) is None
    assert trouble(wrapped(error)) is None
