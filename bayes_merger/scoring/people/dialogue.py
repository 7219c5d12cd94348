"""The dialogue about one trial's pictures in a terminal: a number between 0 and 10 and Enter, undo, later, void."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bayes_merger.errors import Paused
from bayes_merger.scoring.people.viewer import Viewer

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = "0-10, u undo, s later, v void, b best, p prompt, q pause"
GO_ON = "every rating so far is kept"
NUMBER = re.compile(r"\d{1,2}([.,]\d+)?")


class Sheet(Protocol):
    """What a person is asked about: some pictures, by their numbers from 0, and what was said of them so far."""

    def __len__(self) -> int:
        """How many pictures there are."""

    def heading(self) -> str:
        """What is said before the first of them; empty for nothing."""

    def payload(self, number: int) -> str:
        """The name of a picture's payload."""

    def prompt(self, number: int) -> str:
        """What was asked for."""

    def picture(self, number: int) -> tuple[Path, Image]:
        """The picture, and the file that it is.

        Raises:
            OSError: it cannot be read or written.
        """

    def beside_best(self, number: int) -> tuple[Path, Image] | None:
        """The picture with the same one of the best merge so far at its right; None where there is none.

        Raises:
            OSError: it cannot be read or written.
        """

    def score(self, number: int) -> float | None:
        """What it was given, 0 to 10."""

    def rate(self, number: int, score: float, ms: int) -> None:
        """Keep its score, and how long the person took."""

    def undo(self) -> int | None:
        """Take back what was said last; the picture that it was about, None if there is nothing to take back."""

    def void(self, number: int) -> None:
        """Keep that it cannot be judged at all.

        Raises:
            TrialFailed: then nothing more is to be asked.
        """


class Dialogue:
    """The sheet alone knows which pictures are rated.

    Args:
        sheet: what is asked.
        ask: puts a question and returns the answer, in small letters.
        tell: prints a line.
        viewer: shows pictures.
    """

    def __init__(self, sheet: Sheet, ask: Callable[[str], str], tell: Callable[[str], None], viewer: Viewer) -> None:
        self.sheet = sheet
        self.ask = ask
        self.tell = tell
        self.viewer = viewer
        self.waiting = deque(number for number in range(len(sheet)) if sheet.score(number) is None)

    def rate(self, *, confirm: bool) -> None:
        """Ask until every picture has a score.

        Args:
            confirm: ask for Enter after the last one.

        Raises:
            Paused: the person stopped.
            TrialFailed: the person called a picture void.
        """
        asked = bool(self.waiting)
        if asked and (heading := self.sheet.heading()):
            self.tell(heading)
        while True:
            while self.waiting:
                if self.sheet.score(self.waiting[0]) is not None:  # rated elsewhere in the meantime
                    self.waiting.popleft()
                    continue
                self.show(self.waiting[0])
                self.rate_one(self.waiting[0])
            if not (confirm and asked) or self.confirmed():
                return

    def rate_one(self, number: int) -> None:
        """Ask about one picture until another one is first in line."""
        since = time.monotonic()
        place = f"image {number + 1}/{len(self.sheet)} {self.sheet.payload(number)}"
        while self.waiting and self.waiting[0] == number:
            answer = self.ask(f"{place}  [{KEYS}] > ")
            score = points_in(answer)
            if score is not None:
                self.sheet.rate(number, score, round(1000 * (time.monotonic() - since)))
                self.waiting.popleft()
            else:
                self.obey(answer, number)

    def obey(self, answer: str, number: int) -> None:
        """Do what a letter stands for."""
        if answer == "u":
            self.undo()
        elif answer == "s":
            if len(self.waiting) == 1:
                self.tell("  this is the last one; q pauses")
            self.waiting.rotate(-1)
        elif answer == "v":
            self.void(number)
        elif answer == "p":
            self.tell(f"  {self.sheet.prompt(number)}")
        elif answer == "o":
            self.show(number)
        elif answer == "b":
            self.compare(number)
        elif answer == "q":
            raise Paused(f"paused; {GO_ON}")
        else:
            self.tell(
                f"  {answer!r} is neither a number from 0 to 10 nor one of u s v b p o q" if answer else f"  {KEYS}"
            )

    def void(self, number: int) -> None:
        """Call the trial void, once the person has said so twice: `v` lies beside other letters, and it is for good."""
        if self.ask("void: this trial gets no score, for good  [v once more, or Enter to go back] > ") == "v":
            self.sheet.void(number)

    def undo(self) -> None:
        """Take back the latest rating of these pictures, also one of an earlier session, and ask for it next."""
        number = self.sheet.undo()
        if number is None:
            self.tell("  nothing to undo in this trial")
        elif self.sheet.score(number) is None:
            if number in self.waiting:
                self.waiting.remove(number)
            self.waiting.appendleft(number)

    def confirmed(self) -> bool:
        """Whether the person presses Enter."""
        while answer := self.ask(f"all {len(self.sheet)} rated  [Enter go on, u undo, q pause] > "):
            if answer == "u":
                self.undo()
                return False
            if answer == "q":
                raise Paused(f"paused; {GO_ON}")
            self.tell(f"  all are rated already: Enter goes on, u takes the last rating back; {answer!r} does nothing")
        return True

    def show(self, number: int) -> None:
        """Show a picture; one that cannot be shown is no reason to end a run."""
        self._shown(self.sheet.picture, number)

    def compare(self, number: int) -> None:
        """Show a picture beside the best merge's."""
        if not self._shown(self.sheet.beside_best, number):
            self.tell("  there is no best merge yet")

    def _shown(self, picture: Callable[[int], tuple[Path, Image] | None], number: int) -> bool:
        try:
            if found := picture(number):
                self.viewer.show(*found)
        except OSError as error:
            self.tell(f"  (the picture cannot be shown: {error})")
            return True
        return found is not None


def points_in(answer: str) -> float | None:
    """The points a person typed, 0 to 10; None for anything else.

    >>> [points_in(text) for text in ("7", "7.5", "7,5", "11", "-1", "nan")]
    [7.0, 7.5, 7.5, None, None, None]
    """
    if not NUMBER.fullmatch(answer):
        return None
    score = float(answer.replace(",", "."))
    return score if score <= 10 else None
