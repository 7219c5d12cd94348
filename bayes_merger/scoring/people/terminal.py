"""Rating by hand in the terminal: a number between 0 and 10 and Enter, as in the original, but nothing is ever lost."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from bayes_merger.errors import ConfigError, Paused, TrialFailed
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.viewer import Viewer
from bayes_merger.scoring.scorer import TEN_POINTS, ImageToScore, Scale, check_importance

KEYS = "0-10, u undo, s later, v void, p prompt, o open, q pause"
GO_ON = "every rating so far is kept"
NUMBER = re.compile(r"\d{1,2}([.,]\d+)?")


class ManualScorer:
    """Asks the person at the terminal for 0 to 10 points per picture; ratings in the ledger are not asked again.

    `q`, Ctrl-C and the end of input pause the run; a killed process loses nothing, since every rating is on the
    disk before the next question. The person sees neither parameters nor trial number.

    Args:
        ledger: where ratings are kept; None for `ratings.jsonl` in the study's folder (see `prepare`).
        name: what its scores are stored under.
        viewer: command that shows a picture, like `feh -F {}`; None for the system's viewer, or half-block characters
            in a terminal without a display.
        importance: how much it counts beside other scorers.
        confirm: ask for Enter after the last picture, so that it can be undone too.
        rater: who rates, for the ledger.
        ask: puts a question and returns the answer; EOFError if nobody is there.
        tell: prints a line.
        shown: what shows pictures, instead of one made of `viewer`.
    """

    scale: Scale = TEN_POINTS
    interactive = True  # it needs the terminal exclusively: no live progress bars, and it handles Ctrl-C itself

    def __init__(
        self,
        ledger: Ledger | str | Path | None = None,
        *,
        name: str = "manual",
        viewer: str | None = None,
        importance: float = 1.0,
        confirm: bool = False,
        rater: str = "",
        ask: Callable[[str], str] | None = None,
        tell: Callable[[str], None] = print,
        shown: Viewer | None = None,
    ) -> None:
        self.name = name
        self.importance = check_importance(f"scorer {name}", importance)
        self.ledger = Ledger(ledger) if isinstance(ledger, str | Path) else ledger
        self._confirm = confirm
        self._rater = rater
        self._ask = ask or _ask
        self._tell = tell
        self._viewer = shown or Viewer(viewer, tell=tell)

    def prepare(self, folder: Path | None = None) -> None:
        """Decides where ratings are saved, and checks that the file can be written.

        Raises:
            ConfigError: neither a ledger nor a folder is set, or the ledger cannot be written.
        """
        if self.ledger is None:
            if folder is None:
                raise ConfigError(f"scorers.{self.name}.ledger has no value; give the path of a .jsonl file")
            self.ledger = Ledger(folder / "ratings.jsonl")
        try:
            self.ledger.path.parent.mkdir(parents=True, exist_ok=True)
            with self.ledger.path.open("ab"):
                pass
        except OSError as error:
            raise ConfigError(f"scorers.{self.name}.ledger: {self.ledger.path} cannot be written ({error})") from error

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The person's points for every picture, 0 to 10.

        Raises:
            Paused: the person stopped, or nobody is there.
            TrialFailed: the person called a picture void.
        """
        if self.ledger is None:
            raise ConfigError(f"scorer {self.name} was not prepared: it does not know where to save ratings")
        try:
            return _RatingSession(self.ledger, images, self._ask, self._tell, self._viewer, self._rater).rate(
                self._confirm
            )
        except (EOFError, KeyboardInterrupt) as error:
            self._tell("")  # so that the next text starts on a new line
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else "nobody is there to rate"
            raise Paused(f"{why}; {GO_ON}") from None


class _RatingSession:
    """The dialogue about one trial's pictures. The ledger alone decides which pictures are rated."""

    def __init__(
        self,
        ledger: Ledger,
        images: Sequence[ImageToScore],
        ask: Callable[[str], str],
        tell: Callable[[str], None],
        viewer: Viewer,
        rater: str,
    ) -> None:
        self.ledger = ledger
        self.images = images
        self.ask = ask
        self.tell = tell
        self.viewer = viewer
        self.rater = rater
        self.waiting = deque(n for n in range(len(images)) if self.rating(n) is None)

    def rate(self, confirm: bool) -> list[float]:
        asked = bool(self.waiting)
        while True:
            while self.waiting:
                self.show(self.waiting[0])
                self.rate_one(self.waiting[0])
            if not (confirm and asked) or self.confirmed():
                return [self.settled(number) for number in range(len(self.images))]

    def rate_one(self, number: int) -> None:
        """Asks about one picture until another one is first in line."""
        image, since = self.images[number], time.monotonic()
        place = f"image {number + 1}/{len(self.images)} {image.payload}"
        while self.waiting and self.waiting[0] == number:
            answer = self.ask(f"{place}  [{KEYS}] > ").strip().lower()
            score = points_in(answer)
            if score is not None:
                ms = round(1000 * (time.monotonic() - since))
                self.ledger.record(*_key(image), score, seed=image.seed, ms=ms, rater=self.rater)
                self.waiting.popleft()
            else:
                self.obey(answer, number)

    def obey(self, answer: str, number: int) -> None:
        if answer == "u":
            self.undo()
        elif answer == "s":
            if len(self.waiting) == 1:
                self.tell("  this is the last one; q pauses")
            self.waiting.rotate(-1)
        elif answer == "v":
            image = self.images[number]
            self.ledger.void(*_key(image), seed=image.seed, rater=self.rater)
            raise TrialFailed(f"image {image.index} of {image.payload} was marked void by hand")
        elif answer == "p":
            self.tell(f"  {self.images[number].prompt}")
        elif answer == "o":
            self.show(number)
        elif answer == "q":
            raise Paused(f"paused; {GO_ON}")
        else:
            self.tell(
                f"  {answer!r} is neither a number from 0 to 10 nor one of u s v p o q" if answer else f"  {KEYS}"
            )

    def undo(self) -> None:
        """Undoes the latest rating of these pictures, also one of an earlier session, and asks for it next."""
        rating = self.ledger.undo(self.images[0].candidate)
        if rating is None:
            self.tell("  nothing to undo in this trial")
            return
        for number, image in enumerate(self.images):
            if (image.payload, image.index) == (rating.payload, rating.index) and self.rating(number) is None:
                if number in self.waiting:
                    self.waiting.remove(number)
                self.waiting.appendleft(number)

    def confirmed(self) -> bool:
        while answer := self.ask(f"all {len(self.images)} rated  [Enter go on, u undo, q pause] > ").strip().lower():
            if answer == "u":
                self.undo()
                return False
            if answer == "q":
                raise Paused(f"paused; {GO_ON}")
        return True

    def show(self, number: int) -> None:
        image = self.images[number]
        path = image.path
        if path is None:
            path = self.ledger.path.parent / "to_rate" / f"{image.candidate}-{image.payload}-{image.index}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                image.image.save(path)
            except OSError as error:
                self.tell(f"  (the picture could not be written for the viewer: {error})")
        self.viewer.show(path, image.image)

    def rating(self, number: int) -> float | None:
        image = self.images[number]
        return self.ledger.rating(*_key(image), seed=image.seed)

    def settled(self, number: int) -> float:
        score = self.rating(number)
        if score is None:  # another process took it back between our question and now
            raise TrialFailed(f"the rating of image {self.images[number].index} was taken back elsewhere")
        return score


def points_in(answer: str) -> float | None:
    """The points a person typed, 0 to 10; None for anything else.

    >>> [points_in(text) for text in ("7", "7.5", "7,5", "11", "-1", "nan")]
    [7.0, 7.5, 7.5, None, None, None]
    """
    if not NUMBER.fullmatch(answer):
        return None
    score = float(answer.replace(",", "."))
    return score if score <= 10 else None


def _key(image: ImageToScore) -> tuple[str, str, int]:
    return image.candidate, image.payload, image.index


def _ask(question: str) -> str:
    if sys.stdin is None or sys.stdin.closed:  # a service without any input
        raise EOFError
    return input(question)
