"""Pictures are written and judged while the next ones are drawn: compressing a PNG takes a good part of the time that a
GPU needs to draw it, and holds up neither the GPU nor Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.scoring.scorer import Score
from bayes_merger.timing import Stopwatch, timed, went_on_beside

Save = Callable[[Sequence[DrawnImage]], tuple[Path, ...]]
Judge = Callable[[Sequence[DrawnImage], Sequence[Path]], list[Score]]


class Saving:
    """Writes and judges one merge's pictures, in the order in which they come, in a thread beside this block.

    Where the block ends in an error the merge has no score, and nothing of what was written stays.

    Args:
        save: writes some pictures, and says where they are.
        judge: gives the scores that some written pictures get apart from all others.
    """

    def __init__(self, save: Save, judge: Judge = lambda images, paths: []) -> None:
        self._save, self._judge = save, judge
        self._watch = Stopwatch()
        self._begun: dict[tuple[str, int], tuple[Future[tuple[Path, ...]], int]] = {}
        self._judged: list[Future[list[Score]]] = []

    def __enter__(self) -> Saving:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        went_on_beside(self._watch.seconds)
        if kind is not None:
            for future, place in self._begun.values():
                if not future.cancelled() and future.exception() is None:
                    future.result()[place].unlink(missing_ok=True)

    def begin(self, images: Sequence[DrawnImage]) -> None:
        """Write and judge some pictures as soon as that is done with those before them."""
        future = self._thread.submit(self._saved, images)
        self._begun |= {(image.payload, image.index): (future, place) for place, image in enumerate(images)}
        self._judged.append(self._thread.submit(self._scored, images, future))

    def _saved(self, images: Sequence[DrawnImage]) -> tuple[Path, ...]:
        with self._watch.running(), timed("save"):
            return self._save(images)

    def _scored(self, images: Sequence[DrawnImage], saved: Future[tuple[Path, ...]]) -> list[Score]:
        with self._watch.running(), timed("score"):
            return self._judge(images, saved.result())

    def paths(self, images: Sequence[DrawnImage]) -> tuple[Path, ...]:
        """Where some pictures are, in their order, once they are written.

        Raises:
            OSError: they could not be.
        """
        if rest := [image for image in images if (image.payload, image.index) not in self._begun]:
            self.begin(rest)
        found = [self._begun[image.payload, image.index] for image in images]
        return tuple(future.result()[place] for future, place in found)

    def scores(self) -> list[Score]:
        """The scores of the pictures since they were last asked for, once they are there.

        Raises:
            TrialFailed: a picture has none.
        """
        judged, self._judged = self._judged, []
        return [score for future in judged for score in future.result()]
