"""The scorer protocol, and how many scores are combined into one number.

A scorer sees pictures and gives one raw number for each; raw numbers are stored before anything is averaged, so the
scores of a study can be weighted differently later. Only :func:`combine` turns them into points, on one scale for all
scorers: 0 is bad, 10 is perfect. Your own scorer may be ``scorers/brightness.py`` in the working folder::

    from PIL import ImageStat
    from bayes_merger.scoring import ScorerBase

    class Brightness(ScorerBase):
        def score(self, images):
            return [ImageStat.Stat(image.image.convert("L")).mean[0] / 25.5 for image in images]

and ``scorers/brightness.yaml``, chosen by ``scorers=[brightness]``::

    brightness:
      _target_: brightness.Brightness
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed, nearest, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

Scale = tuple[float, float]
"""The raw values that mean 0 and 10 points."""

TEN_POINTS: Scale = (0.0, 10.0)

LARGEST = 1e100
"""No raw score is greater than this: sums and squares of points are numbers still."""


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
        """One raw number per picture, in their order.

        Raises:
            TrialFailed: a picture cannot be scored.
            Paused: a person is needed and nobody is there.
        """


class ScorerBase:
    """Defaults for a scorer, which then needs only `score`; inheriting it is not required.

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
    if not isinstance(scorer, Scorer):
        lacking = [f"`{name}`" for name in _MEMBERS if not hasattr(scorer, name)]
        raise ConfigError(
            f"{setting}: {kind} has no {', '.join(lacking)}; inherit bayes_merger.scoring.ScorerBase for defaults, or "
            "see bayes_merger/scoring/scorer.py"
        )
    for name in ("prepare", "score"):
        if not callable(getattr(scorer, name)):
            raise ConfigError(f"{setting}: `{name}` of {kind} must be a method, not {getattr(scorer, name)!r}")
    if not isinstance(scorer.interactive, bool):
        raise ConfigError(f"{setting}: `interactive` of {kind} must be True or False, not {scorer.interactive!r}")
    if scorer.name != setting.rpartition(".")[2]:
        raise ConfigError(f"{setting}: its name is {scorer.name!r}; give it the one it is chosen by")
    check_importance(setting, scorer.importance)
    check_scale(setting, scorer.scale)
    return scorer


_MEMBERS = ("name", "scale", "importance", "interactive", "prepare", "score")


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


def points(raw: float, scale: Scale) -> float:
    """`10 (raw - low) / (high - low)`: a raw value in points; not clipped, so 11 points are possible.

    >>> points(0.3, (0.0, 0.4))
    7.5
    """
    low, high = scale
    return 10 * (raw - low) / (high - low)


def score_images(scorer: Scorer, images: Sequence[ImageToScore]) -> list[Score]:
    """The raw scores that one scorer gives to `images`, one each, in their order.

    Raises:
        TrialFailed: the scorer raised an error, gave NaN, infinity, a number without measure, something other than
            numbers, or not one for each image.
        BayesMergerError: what the scorer raised of this package's own, such as ``Paused``.
    """
    if not images:
        return []
    try:
        values = _numbers(scorer, scorer.score(images))
    except BayesMergerError:
        raise
    except (Exception, SystemExit) as error:  # a scorer may be anybody's, and one picture is no reason to end a run
        said = one_line(error, longest=300) or type(error).__name__
        raise TrialFailed(f"scorer {scorer.name} raised {type(error).__name__}: {said}") from error
    if len(values) != len(images):
        raise TrialFailed(f"scorer {scorer.name} gave {len(values)} scores for {len(images)} images")
    scores = [
        Score(scorer.name, image.payload, image.index, image.seed, value)
        for image, value in zip(images, values, strict=True)
    ]
    for score in scores:
        _check_finite(score)
    return scores


def _numbers(scorer: Scorer, values: Sequence[float]) -> list[float]:
    """A scorer's result as plain numbers; arrays and tensors are accepted like lists."""
    try:
        if any(isinstance(value, str | bytes) for value in values):
            raise TypeError
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        given = reprlib.repr(values)
        raise TrialFailed(f"scorer {scorer.name} gave {given} instead of one number for each image") from error


def combine(
    scores: Iterable[Score],
    payload_importance: Mapping[str, float],
    scorers: Mapping[str, tuple[float, Scale]],
) -> float:
    """One number for a trial: `sum_s i_s sum_k i_k points(raw_sk) / (sum_s i_s sum_k i_k)`.

    Every image `k` counts with its payload's importance, every scorer `s` with its own. Anything of importance 0 is
    ignored: a scorer of importance 0 may run (and fail) without influencing the search.

    Args:
        scores: raw scores, one per scorer and image.
        payload_importance: payload -> how much each of its images counts, 0 or more.
        scorers: scorer -> (importance, scale).

    Returns:
        Points; 0 to 10 wherever the raw scores stay on their scale.

    Raises:
        TrialFailed: a score is NaN or infinite, missing, or duplicated.
        ConfigError: nothing counts, or a score is of an unknown payload or scorer.
    """
    weights = _counting("payload", payload_importance)
    counting = _counting("scorer", {name: importance for name, (importance, _) in scorers.items()})
    given = _by_scorer(scores, payload_importance, scorers)
    images = sorted({image for found in given.values() for image in found if image[0] in weights})
    _check_complete(given, images, weights, counting)
    total = math.fsum(
        counting[name] * weights[image[0]] * points(given[name][image], scorers[name][1])
        for name in counting
        for image in images
    )
    return total / math.fsum(counting[name] * weights[image[0]] for name in counting for image in images)


def picture_points(
    scores: Iterable[Score],
    payload_importance: Mapping[str, float],
    scorers: Mapping[str, tuple[float, Scale]],
) -> dict[tuple[str, int], float]:
    """Points of each picture, such that their plain mean is what :func:`combine` gives for all of them.

    Args:
        scores: raw scores; a picture that one of the scorers that count has not scored is left out, and so is one whose
            payload does not count.
        payload_importance: as for :func:`combine`.
        scorers: as for :func:`combine`.

    Returns:
        (payload, index) -> points times the payload's share, in the order of the scores.

    Raises:
        TrialFailed: as :func:`combine`.
        ConfigError: as :func:`combine`.
    """
    weights = _counting("payload", payload_importance)
    counting = _counting("scorer", {name: importance for name, (importance, _) in scorers.items()})
    given = _by_scorer(scores, payload_importance, scorers)
    first = given[next(iter(counting))]
    images = [image for image in first if image[0] in weights and all(image in given[name] for name in counting)]
    share = len(images) / (math.fsum(weights[name] for name, _ in images) * math.fsum(counting.values()) or 1.0)
    return {
        image: share
        * weights[image[0]]
        * math.fsum(counting[name] * points(given[name][image], scorers[name][1]) for name in counting)
        for image in images
    }


def _counting(kind: str, importance: Mapping[str, float]) -> dict[str, float]:
    checked = {name: check_importance(f"{kind} {name}", value) for name, value in importance.items()}
    counting = {name: value for name, value in checked.items() if value > 0}
    if not counting:
        what = f"none of {sorted(checked)} has" if checked else "there is none, so nothing has"
        raise ConfigError(f"{kind}s: {what} importance above 0; at least one {kind} must count")
    return counting


def _by_scorer(
    scores: Iterable[Score], payloads: Mapping[str, float], scorers: Mapping[str, tuple[float, Scale]]
) -> dict[str, dict[tuple[str, int], float]]:
    given: dict[str, dict[tuple[str, int], float]] = {name: {} for name in scorers}
    for score in scores:
        if score.scorer not in scorers:
            raise ConfigError(f"score of unknown scorer {score.scorer!r}: {nearest(score.scorer, scorers)}")
        if score.payload not in payloads:
            raise ConfigError(f"score of unknown payload {score.payload!r}: {nearest(score.payload, payloads)}")
        if scorers[score.scorer][0] > 0 and payloads[score.payload] > 0:
            _check_finite(score)
        image = (score.payload, score.index)
        if image in given[score.scorer]:
            raise TrialFailed(f"scorer {score.scorer} scored image {score.index} of {score.payload} twice")
        given[score.scorer][image] = score.value
    return given


def _check_complete(
    given: Mapping[str, Mapping[tuple[str, int], float]],
    images: Sequence[tuple[str, int]],
    payloads: Iterable[str],
    counting: Iterable[str],
) -> None:
    drawn = {payload for payload, _ in images}
    for payload in payloads:
        if payload not in drawn:
            raise TrialFailed(f"payload {payload} has no score at all")
    for name in counting:
        for payload, index in images:
            if (payload, index) not in given[name]:
                raise TrialFailed(f"scorer {name} gave no score for image {index} of {payload}")


def _check_finite(score: Score) -> None:
    if not abs(score.value) <= LARGEST:  # NaN is not
        raise TrialFailed(f"scorer {score.scorer} gave {score.value} for image {score.index} of {score.payload}")
