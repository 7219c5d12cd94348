"""Rating by hand in the terminal: a number between 0 and 10 and Enter, as in the original, but nothing is ever lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError, Paused, TrialFailed
from bayes_merger.scoring.people.dialogue import GO_ON, Dialogue, Sheet
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.viewer import Viewer
from bayes_merger.scoring.scorer import TEN_POINTS, ImageToScore, Scale, check_importance

if TYPE_CHECKING:
    from PIL.Image import Image


class ManualScorer:
    """Asks a person for 0 to 10 points per picture; ratings in the ledger are not asked again.

    In a run, pictures wait for the person while it draws on, see :mod:`bayes_merger.run.rating`. On its own, ``score``
    asks at the terminal at once: `q`, Ctrl-C and the end of input pause, and a killed process loses nothing, since
    every rating is on the disk before the next question. The person sees neither parameters nor trial number.

    Args:
        ledger: where ratings are kept; None for `ratings.jsonl` in the study's folder (see `prepare`).
        name: what its scores are stored under.
        viewer: command that shows a picture, like `feh -F {}`; None for the system's viewer, or half-block characters
            in a terminal without a display.
        importance: how much it counts beside other scorers.
        confirm: in the terminal, ask for Enter after the last picture, so that it can be undone too.
        rater: who rates, for the ledger.
        ask: puts a question and returns the answer; EOFError if nobody is there.
        tell: prints a line.
        shown: what shows pictures, instead of one made of `viewer`.
    """

    scale: Scale = TEN_POINTS
    interactive = True  # it needs the terminal exclusively: no live progress bars, and it handles Ctrl-C itself
    deferred = True  # in a run its scores come later, through the ledger

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
        self.rater = rater
        self._confirm = confirm
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
        sheet = _Pictures(self.ledger, images, self.rater)
        self.converse(sheet)
        return [sheet.settled(number) for number in range(len(images))]

    def converse(self, sheet: Sheet) -> None:
        """Ask at the terminal until all pictures of a sheet have a score.

        Raises:
            Paused: the person stopped, or nobody is there.
            TrialFailed: the person called a picture void.
        """
        Dialogue(sheet, self.question, self._tell, self._viewer).rate(confirm=self._confirm)

    def question(self, text: str) -> str:
        """The answer to a question, in small letters.

        Raises:
            Paused: the person stopped, or nobody is there.
        """
        try:
            return self._ask(text).strip().lower()
        except (EOFError, KeyboardInterrupt) as error:
            self._tell("")  # so that the next text starts on a new line
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else "nobody is there to rate"
            raise Paused(f"{why}; {GO_ON}") from None

    def show(self, path: Path, image: Image) -> None:
        """Show a picture, the file at `path`."""
        self._viewer.show(path, image)


class _Pictures:
    """A sheet of pictures that were just drawn."""

    def __init__(self, ledger: Ledger, images: Sequence[ImageToScore], rater: str) -> None:
        self._ledger = ledger
        self._images = images
        self._rater = rater

    def __len__(self) -> int:
        return len(self._images)

    def heading(self) -> str:
        return ""

    def payload(self, number: int) -> str:
        return self._images[number].payload

    def prompt(self, number: int) -> str:
        return self._images[number].prompt

    def picture(self, number: int) -> tuple[Path, Image]:
        image = self._images[number]
        if image.path is not None:
            return image.path, image.image
        path = self._ledger.path.parent / "to_rate" / f"{image.candidate}-{image.payload}-{image.index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.image.save(path)
        return path, image.image

    def beside_best(self, number: int) -> None:
        return None

    def score(self, number: int) -> float | None:
        image = self._images[number]
        return self._ledger.rating(image.candidate, image.payload, image.index, seed=image.seed)

    def rate(self, number: int, score: float, ms: int) -> None:
        image = self._images[number]
        self._ledger.record(
            image.candidate, image.payload, image.index, score, seed=image.seed, ms=ms, rater=self._rater
        )

    def undo(self) -> int | None:
        rating = self._ledger.undo(self._images[0].candidate)
        if rating is None:
            return None
        about = [(image.payload, image.index) for image in self._images]
        return about.index((rating.payload, rating.index)) if (rating.payload, rating.index) in about else None

    def void(self, number: int) -> None:
        image = self._images[number]
        self._ledger.void(image.candidate, image.payload, image.index, seed=image.seed, rater=self._rater)
        raise TrialFailed(f"image {image.index} of {image.payload} was marked void by hand")

    def settled(self, number: int) -> float:
        score = self.score(number)
        if score is None:  # another process took it back between our question and now
            raise TrialFailed(f"the rating of image {self._images[number].index} was taken back elsewhere")
        return score


def _ask(question: str) -> str:
    if sys.stdin is None or sys.stdin.closed:  # a service without any input
        raise EOFError
    return input(question)
