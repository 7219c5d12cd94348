"""Pictures that are there already, judged: their prompts are those that web UIs write into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from bayes_merger.config import ScoringConfig
from bayes_merger.errors import ConfigError, TrialFailed, one_line
from bayes_merger.imaging.payload.imports import import_file
from bayes_merger.imaging.payload.pictures import is_picture
from bayes_merger.imaging.prompts.prompt import plain_prompt
from bayes_merger.paths import open_regular
from bayes_merger.run.points import combination
from bayes_merger.scoring.combination import Combination
from bayes_merger.scoring.scorer import ImageToScore, Score, Scorer, sees_trial
from bayes_merger.scoring.scores import prepare_scorers, score_images

MOST_PIXELS = 1 << 26
"""Of a picture that is read: 8192 x 8192."""

AT_ONCE = 16
"""Pictures in memory."""

_ALL = "pictures"
"""The payload that all of them are of."""


@dataclass
class Judged:
    """One picture and what was said of it.

    Attributes:
        path: of its file.
        prompt: what was asked for, in plain words; empty where nobody knows.
        scores: scorer -> raw score; those that gave none are not there.
        points: all of them combined; None where one that counts is missing.
        wrong: why it has no scores, or not all.
    """

    path: Path
    prompt: str
    scores: dict[str, float] = field(default_factory=dict)
    points: float | None = None
    wrong: str = ""


def find_pictures(places: Sequence[Path]) -> list[Path]:
    """The pictures of these names, and those in the folders among them, by name.

    Raises:
        ConfigError: there is no such file or folder, or a folder without pictures.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if is_picture(path) and path.is_file())
            if not inside:
                raise ConfigError(f"{place}: has no pictures (PNG, JPEG or WebP)")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise ConfigError(f"{place}: there is no such picture or folder")
    return list(dict.fromkeys(found))


def judge_pictures(
    paths: Sequence[Path],
    scorers: Mapping[str, Scorer],
    prompt: str = "",
    step: Callable[[int], None] = lambda done: None,
) -> list[Judged]:
    """Judge pictures; what cannot be read or judged says why.

    Args:
        paths: of the pictures.
        scorers: by name; none that asks a person.
        prompt: of those that do not say theirs.
        step: told how many are done.

    Raises:
        ConfigError: a scorer asks a person, or cannot work.
    """
    for name, scorer in scorers.items():
        if scorer.interactive:
            raise ConfigError(f"--scorers: {name} asks a person, who rates in a study; leave it out")
    prepare_scorers(scorers.values())
    judged = [Judged(path, prompt_of(path) or prompt) for path in paths]
    known = combination(ScoringConfig(), {name: (s.importance, s.scale) for name, s in scorers.items()}, {_ALL: 1.0})
    size = len(judged) if any(map(sees_trial, scorers.values())) else AT_ONCE
    for start in range(0, len(judged), size):
        _judge(judged[start : start + size], start, scorers)
        step(min(start + size, len(judged)))
    for one in judged:
        one.points = _points(one, known)
    return judged


def _judge(some: Sequence[Judged], first: int, scorers: Mapping[str, Scorer]) -> None:
    """Write the scores of some pictures; a scorer that fails over one of them is asked about each alone."""
    images = {}
    for number, one in enumerate(some):
        try:
            images[number] = ImageToScore(
                _ALL, first + number, 0, one.prompt, read_picture(one.path), one.path, str(one.path)
            )
        except ConfigError as error:
            one.wrong = str(error)
    for name, scorer in scorers.items():
        try:
            scores = score_images(scorer, list(images.values()))
        except TrialFailed:
            scores = []
            for number, image in images.items():
                try:
                    scores += score_images(scorer, [image])
                except TrialFailed as error:
                    some[number].wrong = one_line(error, longest=200)
        for score in scores:
            some[score.index - first].scores[name] = score.value


def read_picture(path: Path) -> Image.Image:
    """A picture's pixels, RGB.

    Raises:
        ConfigError: why it cannot be read; the text does not name it.
    """
    try:
        with open_regular(path) as file, Image.open(file) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ConfigError(f"has {picture.width} x {picture.height} pixels, too many for a picture")
            return picture.convert("RGB")
    except UnidentifiedImageError:
        raise ConfigError("is no picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"cannot be read ({one_line(error, longest=100)})") from None


def prompt_of(path: Path) -> str:
    """The prompt that a web UI has written into a picture, in plain words; empty if there is none."""
    try:
        return plain_prompt(str(import_file(path)[0].fields.get("prompt", "")))
    except ConfigError:
        return ""


def _points(one: Judged, known: Combination) -> float | None:
    try:
        return known.value([Score(name, _ALL, 0, 0, value) for name, value in one.scores.items()])
    except (TrialFailed, ConfigError):
        return None
