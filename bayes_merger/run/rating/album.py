"""The pictures that a sitting shows, by opaque ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.pictures import without_texts
from bayes_merger.run.rating.awaiting import Awaiting, Question


@dataclass(frozen=True)
class Picture:
    """A picture to rate.

    Attributes:
        id: opaque.
        payload: name of the payload.
        prompt: what was asked for.
        path: where it lies; for the server, not for the person, since it has the trial's number.
        width: in pixels.
        height: in pixels.
        score: what this picture was given so far, 0 to 10.
    """

    id: str
    payload: str
    prompt: str
    path: Path
    width: int
    height: int
    score: float | None = None


@dataclass(frozen=True)
class Shown:
    """What a picture is about.

    Attributes:
        one: the trial in whose turn it is shown.
        question: which picture it is.
        repeated: whether it is one of an earlier trial.
    """

    one: Awaiting
    question: Question
    repeated: bool


class Album:
    """The pictures of one study.

    Args:
        folder: the study's.
        prompts: payload -> the prompts of its pictures.
    """

    def __init__(self, folder: RunFolder, prompts: Mapping[str, Sequence[str]]) -> None:
        self._folder = folder
        self._prompts = prompts
        self._shown: dict[str, Shown] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def show(self, shown: Shown, score: float | None = None) -> Picture:
        """A picture that is there, to be known by its id from now on.

        Raises:
            ConfigError: it is no longer there.
        """
        question = shown.question
        about = (question.candidate, question.payload, question.index, shown.repeated)
        found = opaque("picture", shown.one.number, *about)
        self._shown[found] = shown
        prompts = self._prompts.get(question.payload, ())
        prompt = prompts[question.index] if question.index < len(prompts) else ""
        return Picture(found, question.payload, prompt, self._path(question), *self._size(question), score)

    def __contains__(self, picture: str) -> bool:
        return picture in self._shown

    def __getitem__(self, picture: str) -> Shown:
        return self._shown[picture]

    def has(self, question: Question) -> bool:
        """Whether a picture is there and is one."""
        return self._size(question) != (0, 0)

    def path(self, picture: str) -> Path:
        """The file of a picture that was shown.

        Raises:
            ConfigError: it is no longer there.
        """
        return self._path(self._shown[picture].question)

    def contents(self, picture: str) -> bytes:
        """The file of a picture that was shown, without the texts in it, which tell what merge it is.

        Raises:
            ConfigError: it is no longer there.
        """
        return without_texts(self.path(picture).read_bytes())

    def _path(self, question: Question) -> Path:
        found = self._folder.pictures([question.image])
        if not found:
            raise ConfigError("this picture is no longer there; the run draws it again when it goes on")
        return found[0]

    def _size(self, question: Question) -> tuple[int, int]:
        """Width and height; 0, 0 of what is missing or no picture."""
        if question.image not in self._sizes:
            try:
                with Image.open(self._path(question)) as image:
                    self._sizes[question.image] = image.size
            except (ConfigError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                return 0, 0
        return self._sizes[question.image]


def opaque(*parts: object) -> str:
    """An id that tells nothing of its parts, the same in every process."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
