"""A sitting in the terminal: the same questions as on the page, and the same ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bayes_merger.errors import Closed, Paused, TrialFailed
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.pictures import side_by_side
from bayes_merger.run.rating.playoff import Pair, Side
from bayes_merger.run.rating.sitting import Sitting, Trial
from bayes_merger.scoring.people.dialogue import GO_ON


def rate_in_terminal(folder: RunFolder, scorer: Any) -> None:
    """Ask in this terminal about everything that waits in a study.

    Args:
        folder: the study's.
        scorer: a :class:`~bayes_merger.scoring.ManualScorer`, prepared.

    Raises:
        Paused: the person stopped, or nobody is there.
    """
    with Sitting(folder, scorer.rater, scorer.ledger.path) as sitting:
        while trials := sitting.trials():
            try:
                scorer.converse(_Sheet(sitting, trials[0]))
                sitting.confirm(trials[0].id)
            except (Closed, TrialFailed):  # by another rater, or as void
                continue


def compare_in_terminal(folder: RunFolder, scorer: Any) -> None:
    """Ask in this terminal about the pairs of a study's play-off, to its end.

    Args:
        folder: the study's.
        scorer: a :class:`~bayes_merger.scoring.ManualScorer`, prepared.

    Raises:
        Paused: the person stopped, or nobody is there.
    """
    with Sitting(folder, scorer.rater, scorer.ledger.path) as sitting:
        while (bracket := sitting.play_off()) and not bracket.over:
            if not bracket.open:
                sitting.end_play_off()
                return
            pair, since = bracket.open[0], time.monotonic()
            _show(sitting, pair, scorer)
            place = f"pair {len(bracket.pairs) - len(bracket.open) + 1}/{len(bracket.pairs)} {pair.payload}"
            answer = scorer.question(f"{place}  [{PAIR_KEYS}] > ")
            if answer in SIDES:
                sitting.prefer(pair.id, SIDES[answer], round(1000 * (time.monotonic() - since)))
            elif answer == "u":
                sitting.undo()
            elif answer == "d":
                sitting.end_play_off()
            elif answer == "q":
                raise Paused(f"paused; {GO_ON}")


def sit_in_terminal(folder: RunFolder, scorer: Any, tell: Callable[[str], None] = print) -> None:
    """Ask in this terminal about everything that waits, and what a run that draws now brings, until it ends.

    Args:
        folder: the study's.
        scorer: a :class:`~bayes_merger.scoring.ManualScorer`, prepared.
        tell: prints a line.

    Raises:
        Paused: the person stopped, or nobody is there.
    """
    waits = True
    while waits:
        rate_in_terminal(folder, scorer)
        compare_in_terminal(folder, scorer)
        with Sitting(folder, scorer.rater, scorer.ledger.path) as sitting:
            state = sitting.state()
        waits = state.running
        if waits and not state.waiting:
            tell(f"{state.done} of {state.total} trials are rated; waiting for the run to draw")
        while waits and not state.waiting:
            time.sleep(PACE)
            with Sitting(folder, scorer.rater, scorer.ledger.path) as sitting:
                state, playing = sitting.state(), sitting.play_off()
            waits = state.running
            if playing and not playing.over:
                break


def _show(sitting: Sitting, pair: Pair, scorer: Any) -> None:
    path = _place(sitting, pair.id)
    side_by_side(path, [Image.open(picture.path) for picture in (pair.left, pair.right)], columns=2)
    with Image.open(path) as image:
        scorer.show(path, image)


def _place(sitting: Sitting, id: str) -> Path:
    """Where a picture lies for the viewer, under a name that tells nothing; the last few stay, since viewers read late.

    The pictures themselves lie in a folder that is called by the trial's number.
    """
    folder = sitting.folder.path / "to_rate"
    folder.mkdir(exist_ok=True)
    for old in sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return folder / f"{id}.png"


KEPT = 20
PACE = 1.0
"""Seconds between two looks at a study whose run draws."""

PAIR_KEYS = "a left, b right, t neither, u undo, d done, q pause"
SIDES: Mapping[str, Side] = {"a": "left", "b": "right", "t": "neither"}


class _Sheet:
    """A trial that waits, as what a terminal asks about; one that gets a single score is shown as one picture."""

    def __init__(self, sitting: Sitting, trial: Trial) -> None:
        self._sitting = sitting
        self._trial = trial
        self._pictures = trial.pictures if trial.unit == "picture" else trial.pictures[:1]

    def __len__(self) -> int:
        return len(self._pictures)

    def heading(self) -> str:
        state = self._sitting.state()
        return f"{state.done} of {state.total} merges are rated"

    def payload(self, number: int) -> str:
        return self._pictures[number].payload if self._trial.unit == "picture" else "all together"

    def prompt(self, number: int) -> str:
        return self._pictures[number].prompt

    def picture(self, number: int) -> tuple[Path, Image.Image]:
        if len(self._pictures) < len(self._trial.pictures):
            path = _place(self._sitting, self._trial.id)
            side_by_side(path, [Image.open(picture.path) for picture in self._trial.pictures])
        else:
            path = _place(self._sitting, self._pictures[number].id)
            path.write_bytes(self._sitting.bytes_of(self._pictures[number].id))
        return path, Image.open(path)

    def beside_best(self, number: int) -> tuple[Path, Image.Image] | None:
        id = self._pictures[number].id
        if not (best := self._sitting.best_picture(id)):
            return None
        path = _place(self._sitting, f"{id}-best")
        side_by_side(path, [Image.open(self._sitting.path_of(each)) for each in (id, best.id)], columns=2)
        return path, Image.open(path)

    def score(self, number: int) -> float | None:
        return self._sitting.score_of(self._pictures[number].id)

    def rate(self, number: int, score: float, ms: int) -> None:
        self._sitting.rate(self._pictures[number].id, score, ms)

    def undo(self) -> int | None:
        found = self._sitting.undo(self._trial.id)
        ids = [picture.id for picture in self._pictures]
        return ids.index(found) if found in ids else 0 if found == self._trial.id else None

    def void(self, number: int) -> None:
        self._sitting.void(self._pictures[number].id)
        raise TrialFailed("marked void")
