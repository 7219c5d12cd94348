"""Pictures are written while the next ones are drawn: compressing a PNG takes a good part of the time that a GPU needs
to draw it, and holds up neither the GPU nor Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from bayes_merger.imaging.pipelines.pipeline import DrawnImage

Save = Callable[[Sequence[DrawnImage]], tuple[Path, ...]]


class Saving:
    """Writes one merge's pictures, in the order in which they come, in a thread beside this block.

    Where the block ends in an error the merge has no score, and nothing of what was written stays.

    Args:
        save: writes some pictures, and says where they are.
    """

    def __init__(self, save: Save) -> None:
        self._save = save
        self._begun: dict[tuple[str, int], tuple[Future[tuple[Path, ...]], int]] = {}

    def __enter__(self) -> Saving:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is not None:
            for future, place in self._begun.values():
                if not future.cancelled() and future.exception() is None:
                    future.result()[place].unlink(missing_ok=True)

    def begin(self, images: Sequence[DrawnImage]) -> None:
        """Write some pictures as soon as those before them are written."""
        future = self._thread.submit(self._save, images)
        self._begun |= {(image.payload, image.index): (future, place) for place, image in enumerate(images)}

    def paths(self, images: Sequence[DrawnImage]) -> tuple[Path, ...]:
        """Where some pictures are, in their order, once they are written.

        Raises:
            OSError: they could not be.
        """
        if rest := [image for image in images if (image.payload, image.index) not in self._begun]:
            self.begin(rest)
        found = [self._begun[image.payload, image.index] for image in images]
        return tuple(future.result()[place] for future, place in found)
