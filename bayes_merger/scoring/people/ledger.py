"""The ledger of ratings given by hand: one JSON line each, never changed, on the disk before the next question.

Ratings by hand are the most expensive data of a study, so a killed process loses none: every line is flushed to the
disk, a line cut off by a crash is terminated by the next writer and skipped, and undoing a rating appends a line too.
Several processes may write to one ledger.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from bayes_merger.atomic import sync_folder
from bayes_merger.errors import ConfigError, UserError
from bayes_merger.paths import user_path
from bayes_merger.scoring.people.rating import Kind, Rating, parsed

log = logging.getLogger(__name__)


class Ledger:
    """The ratings in one file; reading follows what other processes append.

    Args:
        path: a `.jsonl` file; it and its folder are made by the first rating.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self._offset = 0
        self._lines = 0
        self._given: dict[str, Rating] = {}  # what is still valid, oldest first

    def record(
        self,
        candidate: str,
        payload: str,
        index: int,
        score: float,
        *,
        seed: int | None = None,
        ms: int | None = None,
        rater: str = "",
    ) -> Rating:
        """Writes a rating of 0 to 10 and returns once it is on the disk; a later one for the same picture replaces it.

        Raises:
            ConfigError: the score is out of range.
            UserError: it cannot be written.
        """
        return self.append("score", candidate, payload, index, score=score, seed=seed, ms=ms, rater=rater)

    def void(self, candidate: str, payload: str, index: int, *, seed: int | None = None, rater: str = "") -> Rating:
        """Notes that a picture cannot be judged at all; it has no rating then and will be asked for again."""
        return self.append("void", candidate, payload, index, seed=seed, rater=rater)

    def undo(
        self, candidate: str | None = None, *, only: Callable[[Rating], bool] = lambda rating: True
    ) -> Rating | None:
        """Undoes the latest rating that is still valid (of `candidate`), and returns it; None if there is none.

        A rating that it had replaced is valid again.

        Args:
            candidate: opaque id of a merge; None: whatever was last.
            only: whether a rating may be undone.
        """
        for rating in reversed(self.ratings()):
            if candidate in (None, rating.candidate) and only(rating):
                self.append("undo", rating.candidate, rating.payload, rating.index, undoes=rating.id)
                return rating
        return None

    def rating(self, candidate: str, payload: str, index: int, *, seed: int | None = None) -> float | None:
        """The valid score of a picture; None if there is none.

        Args:
            candidate: opaque id of the merge.
            payload: name of the payload.
            index: which picture of it.
            seed: where given, a rating of another seed is of another picture and does not count.
        """
        for rating in reversed(self.ratings()):
            if (
                rating.kind in ("score", "void")
                and (rating.candidate, rating.payload, rating.index) == (candidate, payload, index)
                and (seed is None or rating.seed is None or rating.seed == seed)
            ):
                return rating.score
        return None

    def ratings(self) -> list[Rating]:
        """All ratings that are still valid, oldest first."""
        self._read_on()
        return list(self._given.values())

    @property
    def size(self) -> int:
        """Its length in bytes, which only grows; 0 before the first rating."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else who asks for this writes in the meantime: for looking before writing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f"{self.path.name}.lock"), poll_interval=0.005):
            yield

    def append(self, kind: Kind, candidate: str, payload: str = "", index: int = 0, **rest: Any) -> Rating:
        """Writes a line and returns once it is on the disk; the arguments are those of :class:`Rating`.

        Raises:
            ConfigError: a score that is not between 0 and 10.
            UserError: it cannot be written.
        """
        if (score := rest.get("score")) is not None:
            if not (math.isfinite(score) and 0 <= score <= 10):
                raise ConfigError(f"rating {score} is not between 0 and 10")
            rest["score"] = float(score)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rating = Rating(secrets.token_hex(6), kind, candidate, payload, index, time=now, **rest)
        try:
            self._write(rating.line())
        except OSError as error:
            raise UserError(f"{self.path}: the rating could not be saved ({error}); nothing else is lost") from error
        return rating

    def _write(self, line: bytes) -> None:
        new = not self.path.exists()
        if new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write of one line to a file opened for appending: lines of several processes do not mix.
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            if _ends_torn(file):
                line = b"\n" + line  # ends the incomplete line; it is kept, and skipped by readers
            if os.write(file, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            sync_folder(self.path.parent)

    def _read_on(self) -> None:
        size = self.size
        if size < self._offset:  # the file was replaced
            self._offset, self._lines, self._given = 0, 0, {}
        if size == self._offset:
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            tail = file.read()
        *whole, rest = tail.split(b"\n")
        for line in whole:
            self._lines += 1
            self._take(line)
        self._offset += len(tail) - len(rest)
        if rest and (last := parsed(rest)) is not None:  # only its line end is missing: still a complete rating
            self._apply(last)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        rating = parsed(line)
        if rating is None:
            log.warning("%s: line %d is no rating, or was cut off by a crash, and is skipped", self.path, self._lines)
        else:
            self._apply(rating)

    def _apply(self, rating: Rating) -> None:
        if rating.kind == "undo":
            self._given.pop(rating.undoes or "", None)
        else:
            self._given.setdefault(rating.id, rating)


def _ends_torn(file: int) -> bool:
    size = os.fstat(file).st_size
    if size == 0:
        return False
    os.lseek(file, size - 1, os.SEEK_SET)
    return os.read(file, 1) != b"\n"
