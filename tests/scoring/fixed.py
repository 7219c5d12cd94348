"""A scorer that says what it was told to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger.scoring import ImageToScore

TEN = (0.0, 10.0)


class Fixed:
    """Says what it was told to say."""

    name = "fixed"
    scale = TEN
    importance = 1.0
    interactive = False

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def prepare(self, folder: Path | None = None) -> None:
        pass

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        return self.values
