"""The scorer protocol: pictures in, one raw number for each out; :mod:`bayes_merger.scoring.combination` combines them.

Your own scorer may be ``scorers/brightness.py`` in the working folder::

    from PIL import ImageStat
    from bayes_merger.scoring import ScorerBase

    class Brightness(ScorerBase):
        def score(self, images):
            return [ImageStat.Stat(image.image.convert("L")).mean[0] / 25.5 for image in images]

or no more than a function of a picture, or of a picture and its prompt, which gives 0 to 10::

    def brightness(picture):
        return ImageStat.Stat(picture.convert("L")).mean[0] / 25.5

and ``scorers/brightness.yaml`` (``brightness.brightness`` for the function), chosen by ``scorers=brightness``::

    brightness:
      _target_: brightness.Brightness

Where a picture alone does not tell, such as how much those of different seeds differ, a scorer has ``score_trial``
instead of ``score``: it sees all pictures of a trial at once and gives one number for them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeGuard, cast, runtime_checkable

from bayes_merger.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

Scale = tuple[float, float]
"""The raw values that mean 0 and 10 points."""

TEN_POINTS: Scale = (0.0, 10.0)


@dataclass(frozen=True)
class ImageToScore:
    """One picture as a scorer sees it.

    Attributes:
        payload: name of the payload it was drawn for.
        index: which picture of that payload, from 0.
        seed: seed of its noise.
        prompt: what was asked for, in plain words (no web-UI syntax).
        image: the picture itself.
        path: where it is kept as a file, when it is.
        candidate: opaque id of the merge that drew it; the same merge has the same id in every process.
    """

    payload: str
    index: int
    seed: int
    prompt: str
    image: Image
    path: Path | None
    candidate: str


@dataclass(frozen=True)
class Score:
    """One scorer's score of one picture; `value` is raw, in the scorer's own range."""

    scorer: str
    payload: str
    index: int
    seed: int
    value: float


@runtime_checkable
class Scorer(Protocol):
    """Pictures in, one raw number for each out; `ScorerBase` has defaults for everything but `score`.

    The constructor takes plain values, reads no file and loads nothing; `prepare` checks at start-up whether the scorer
    can work at all (files, addresses, shapes); heavy things are loaded by the first `score`.

    Attributes:
        name: what its scores are stored under: its name in the settings.
        scale: the raw values that mean 0 and 10 points.
        importance: how much it counts beside other scorers; with 0 its scores are stored but do not count.
        interactive: whether it asks a person at the terminal, which it then uses exclusively: no progress bars, one
            worker, no final round.
    """

    name: str
    scale: Scale
    importance: float
    interactive: bool

    def prepare(self, folder: Path | None = None) -> None:
        """Check everything that can be checked without loading a model.

        Args:
            folder: the study's own folder, for a scorer that stores files there.

        Raises:
            ConfigError: a file is missing, damaged, or does not fit.
        """

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """One raw number per picture, in their order; the pictures of a trial may come in several parts.

        It may be asked in another thread than `prepare`, never in two at a time.

        Raises:
            TrialFailed: a picture cannot be scored.
            Paused: a person is needed and nobody is there.
        """


class TrialScorer(Scorer, Protocol):
    """A scorer that sees all pictures of a trial at once; its `score` is never asked and need not be there."""

    def score_trial(self, images: Sequence[ImageToScore]) -> float:
        """One raw number for the whole trial, which counts for each of its pictures.

        Args:
            images: of all payloads that it judges, never none.

        Raises:
            TrialFailed: the trial cannot be scored.
        """


def sees_trial(scorer: object) -> TypeGuard[TrialScorer]:
    """Whether a scorer wants the whole trial at once."""
    return hasattr(scorer, "score_trial")


class ScorerBase:
    """Defaults for a scorer, which then needs only `score` or `score_trial`; inheriting it is not required.

    Args:
        name: what its scores are stored under.
        importance: how much it counts beside other scorers.
        scale: the raw values that mean 0 and 10 points.
    """

    interactive = False

    def __init__(self, name: str, importance: float = 1.0, scale: Sequence[float] = TEN_POINTS) -> None:
        self.name = name
        self.importance = check_importance(f"scorer {name}", importance)
        self.scale = check_scale(f"scorer {name}", scale)

    def prepare(self, folder: Path | None = None) -> None:
        """Nothing to check."""


class FunctionScorer(ScorerBase):
    """A plain function of a picture, or of a picture and its prompt, as a scorer.

    Args:
        function: takes a picture of Pillow's, perhaps what was asked for in plain words, gives its raw score.
        name: as in `ScorerBase`.
        importance: likewise.
        scale: likewise.

    Raises:
        ConfigError: it takes something else.
    """

    def __init__(
        self,
        function: Callable[..., float],
        name: str,
        importance: float = 1.0,
        scale: Sequence[float] = TEN_POINTS,
    ) -> None:
        super().__init__(name, importance, scale)
        self._function = function
        self._prompted = _takes_prompt(f"scorer {name}", function)

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """What the function says of each picture."""
        if self._prompted:
            return [self._function(image.image, image.prompt) for image in images]
        return [self._function(image.image) for image in images]


def _takes_prompt(what: str, function: Callable[..., float]) -> bool:
    """Whether a function takes the prompt behind the picture.

    Raises:
        ConfigError: it needs less or more, or gives its score later.
    """
    try:
        known = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return False
    placed = [one for one in known if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in placed if one.default is one.empty]
    others = [one for one in known if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    few = not placed and not any(one.kind is one.VAR_POSITIONAL for one in known)
    if few or len(needed) > 2 or others:
        names = ", ".join(one.name for one in (*needed, *others)) or "nothing"
        raise ConfigError(f"{what}: its function takes {names}; it is given a picture, or a picture and its prompt")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{what}: its function is async; write it without, it is asked in a thread of its own")
    return len(needed) == 2 or (len(placed) > 1 and placed[1].name == "prompt")


def check_scorer(setting: str, scorer: object) -> Scorer:
    """`scorer` as a `Scorer`, from which it need not inherit; it is interactive only if it says so.

    Args:
        setting: where it is chosen, like "scorers.laion"; what follows the last point is its name.
        scorer: the object built from the settings.

    Raises:
        ConfigError: an attribute is missing or has the wrong type; the text names it.
    """
    kind = type(scorer).__qualname__
    if not hasattr(scorer, "interactive"):  # older scorers do not have it and ask nobody
        with suppress(AttributeError):
            scorer.interactive = False  # type: ignore[attr-defined]
    asked = "score_trial" if hasattr(scorer, "score_trial") else "score"
    if lacking := [f"`{name}`" for name in (*_MEMBERS, asked) if not hasattr(scorer, name)]:
        raise ConfigError(
            f"{setting}: {kind} has no {', '.join(lacking)}; inherit bayes_merger.scoring.ScorerBase for defaults, or "
            "see bayes_merger/scoring/scorer.py"
        )
    scorer = cast("Scorer", scorer)  # or a TrialScorer, which is as good: `score_images` alone asks either
    for name in ("prepare", asked):
        if not callable(getattr(scorer, name)):
            raise ConfigError(f"{setting}: `{name}` of {kind} must be a method, not {getattr(scorer, name)!r}")
    if not isinstance(scorer.interactive, bool):
        raise ConfigError(f"{setting}: `interactive` of {kind} must be True or False, not {scorer.interactive!r}")
    if scorer.name != setting.rpartition(".")[2]:
        raise ConfigError(f"{setting}: its name is {scorer.name!r}; give it the one it is chosen by")
    check_importance(setting, scorer.importance)
    check_scale(setting, scorer.scale)
    return scorer


_MEMBERS = ("name", "scale", "importance", "interactive", "prepare")


def check_importance(what: str, importance: object) -> float:
    """`importance` as a finite number, 0 or more.

    Args:
        what: whose importance it is, for the message, like "scorer laion".
        importance: what the configuration says.

    Raises:
        ConfigError: not a number, or negative, or not finite.
    """
    if isinstance(importance, bool) or not isinstance(importance, int | float):
        raise ConfigError(f"{what}: importance must be a number, not {importance!r}")
    if not math.isfinite(importance) or importance < 0:
        raise ConfigError(f"{what}: importance {importance} is not valid; give a number of 0 or more")
    return float(importance)


def check_scale(what: str, scale: Sequence[float]) -> Scale:
    """`scale` as two different finite numbers: the raw values of 0 and 10 points (a falling scale is allowed).

    Raises:
        ConfigError: anything else.
    """
    try:
        low, high = (float(end) for end in scale)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: scale must be two numbers like [0, 10], not {scale!r}") from error
    if low == high or not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{what}: scale [{low}, {high}] has two equal ends; give the raw values of 0 and 10 points")
    return low, high
