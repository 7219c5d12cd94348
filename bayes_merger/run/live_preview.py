"""A merge's pictures while they are drawn, in a small file of the study's folder, for those who watch the study.

Whoever watches says so by touching a file; while nobody does, nothing is written and no latents leave the GPU.
"""

from __future__ import annotations

import io
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bayes_merger.imaging.pipelines.sketches import Sketches
from bayes_merger.run.folder import DRAWINGS, RunFolder
from bayes_merger.run.pictures import tiled

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn

PACE = 1.0
"""Seconds between two times that the file is written."""

ATTENTION = 10.0
"""Seconds for which who watches is taken to go on watching."""

TILE, WHOLE = 256, 1024
"""Pixels of the longer side of a picture, and of all of them together, at most."""


def watch(folder: RunFolder) -> None:
    """Say that somebody watches a study now."""
    with suppress(OSError):
        _watched(folder).touch()


def is_watched(folder: RunFolder) -> bool:
    """Whether somebody watches a study."""
    try:
        return abs(time.time() - _watched(folder).stat().st_mtime) < ATTENTION
    except OSError:
        return False


def previews(folder: RunFolder) -> list[Path]:
    """What is being drawn, a file for each process that draws; else what was drawn last, if that is kept."""
    drawings = folder.pictures(sorted(path.name for path in folder.path.glob(DRAWINGS)))
    return drawings or folder.pictures([folder.preview.name])


def forget_preview(folder: RunFolder, process: int) -> None:
    """Remove what a process that has died was drawing."""
    with suppress(OSError):
        _drawing(folder, process).unlink(missing_ok=True)


def _watched(folder: RunFolder) -> Path:
    return folder.path / ".watched"


def _drawing(folder: RunFolder, process: int) -> Path:
    return folder.path / DRAWINGS.replace("*", str(process))


class LivePreview:
    """Shows the pictures of one drawing after another: the finished ones, and sketches of those that are begun.

    A context manager. It is an :class:`~bayes_merger.imaging.pipelines.sketches.Onlooker`; all that takes time is done
    in a thread of its own, and nothing that goes wrong with it is the run's business.

    Args:
        folder: of the study.
        pace: seconds between two times that it writes.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(self, folder: RunFolder, pace: float = PACE, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._pace, self._clock = folder, pace, clock
        self._path = _drawing(folder, os.getpid())
        self._sketches = Sketches()
        self._lessons: list[tuple[Tensor, Sequence[Image.Image]]] = []
        self._total, self._next = 0, 0.0
        self._finished: list[Image.Image] = []
        self._begun: Tensor | None = None
        self._changed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="preview", daemon=True)

    def __enter__(self) -> LivePreview:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join()
        forget_preview(self._folder, os.getpid())

    def following(self, pictures: int, on_drawn: OnDrawn | None) -> OnDrawn:
        """Show a drawing that begins now, of so many pictures; returns who is to be given them, who passes them on."""
        self._total, self._finished, self._begun = pictures, [], None

        def taken(images: Sequence[DrawnImage]) -> None:
            self._finished, self._begun = [*self._finished, *(one.image for one in images)], None
            self._changed.set()
            if on_drawn is not None:
                on_drawn(images)

        return taken

    @property
    def is_looking(self) -> bool:
        """Whether somebody watches, and has seen nothing for a while."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + self._pace
        return is_watched(self._folder)

    def on_latents(self, latents: Tensor) -> None:
        """Take a copy of them."""
        self._begun = latents.detach().to("cpu", copy=True)
        self._changed.set()

    def on_decoded(self, latents: Tensor, images: Sequence[Image.Image]) -> None:
        """Learn from the first ones what latents look like."""
        if self._sketches.is_learning:
            self._lessons.append((latents.detach().to("cpu", copy=True), images))
            self._changed.set()

    def _work(self) -> None:
        while self._changed.wait() and not self._over.is_set():
            self._changed.clear()
            while self._lessons:
                self._sketches.learn(*self._lessons.pop())
            if is_watched(self._folder):
                with suppress(OSError):
                    self._write()
            elif self._finished:
                self._changed.set()  # who comes later sees it too
            self._over.wait(self._pace)

    def _write(self) -> None:
        finished, begun = self._finished, self._begun
        shown = [*finished, *([] if begun is None else self._sketches.of(begun, TILE))]
        if not shown:
            return
        columns = math.ceil(math.sqrt(max(self._total, len(shown))))
        blank = Image.new("RGB", shown[0].size)
        rest = [blank] * (self._total - len(shown))
        data = io.BytesIO()
        tiled([*shown, *rest], columns, min(TILE, WHOLE // columns)).save(data, "PNG", compress_level=1)
        new = self._path.with_name(f".{self._path.name}.tmp")  # which a sweep knows for half-written
        new.write_bytes(data.getvalue())  # no flush: after a power cut nobody misses it
        new.replace(self._path)
