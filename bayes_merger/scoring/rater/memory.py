"""The embeddings of the pictures that a person may rate, kept beside the ledger: a line of JSON each, only added to.

A study may come from anybody: a line that is not what we write is skipped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bayes_merger.scoring.rater.model import Array
from bayes_merger.scoring.scorer import ImageToScore

Key = tuple[str, str, int, int]
"""Candidate, payload, index and seed of a picture."""

WIDEST = 1 << 13
"""Numbers of an embedding."""


def key_of(image: ImageToScore) -> Key:
    """What a picture is remembered under."""
    return image.candidate, image.payload, image.index, image.seed


class Memory:
    """Embeddings by picture, in one file; reading follows what other processes append.

    Args:
        path: a `.jsonl` file.
        width: of an embedding; others are skipped.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._offset = 0
        self._known: dict[Key, Array] = {}

    def known(self) -> dict[Key, Array]:
        """All embeddings, each of length 1."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size > self._offset:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                *whole, rest = file.read().split(b"\n")
            self._offset = size - len(rest)
            for line in whole:
                self._take(line)
        return self._known

    def add(self, found: Iterable[tuple[Key, Array]]) -> None:
        """Remember embeddings that are new."""
        known = self.known()
        lines = [_line(key, vector) for key, vector in found if key not in known]
        if lines:
            with self._path.open("ab") as file:
                file.write(b"\n" + b"".join(lines))  # the first ends a line that a kill has cut off

    def _take(self, line: bytes) -> None:
        try:
            candidate, payload, index, seed, text = json.loads(line)
            vector = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float64)
            key = (str(candidate), str(payload), int(index), int(seed))
        except (ValueError, TypeError, RecursionError):
            return
        length = float(np.linalg.norm(vector)) if len(vector) == self._width <= WIDEST else 0.0
        if np.isfinite(length) and length > 0:
            self._known[key] = vector / length


def _line(key: Key, vector: Array) -> bytes:
    text = base64.b64encode(vector.astype("<f2").tobytes()).decode()
    return json.dumps([*key, text]).encode() + b"\n"
