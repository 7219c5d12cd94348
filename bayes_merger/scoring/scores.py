"""The scores of one scorer: whatever it raises or returns, they are numbers or the trial fails."""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed, one_line, printable
from bayes_merger.scoring.scorer import ImageToScore, Score, Scorer, sees_trial

LARGEST = 1e100
"""No raw score is greater than this: sums and squares of points are numbers still."""


def prepare_scorers(scorers: Iterable[Scorer], folder: Path | None = None) -> None:
    """Check that scorers can work, and fetch their weights where they are not here yet.

    Args:
        scorers: built but not loaded.
        folder: the study's own, for those that keep something there.

    Raises:
        ConfigError: a scorer cannot work. Where a file cannot be fetched, all that are missing are named, for who has
            to carry them here.
    """
    from bayes_merger.scoring.download import NotFetched  # the network's modules, which those who look do not need

    chosen = list(scorers)
    try:
        for scorer in chosen:
            with _own_code(ConfigError, f"scorers.{scorer.name}: its prepare"):
                scorer.prepare(folder)
    except NotFetched as error:
        others = _missing(chosen, besides=str(error))
        raise (NotFetched(f"{error}; missing too: {others}") if others else error) from None


def _missing(scorers: Iterable[Scorer], besides: str) -> str:
    """The files that are not here, with the settings that name one; but for those that a text has told already."""
    settings: dict[str, list[str]] = {}
    for file in (file for scorer in scorers for file in getattr(scorer, "files", ())):  # people's own need not say
        if not file.is_here and file.source not in besides:
            settings.setdefault(file.source, []).append(f"{file.setting}=")
    return ", ".join(f"{source} ({' '.join(names)})" for source, names in settings.items())


def score_images(scorer: Scorer, images: Sequence[ImageToScore]) -> list[Score]:
    """The raw scores that one scorer gives to `images`, one each, in their order.

    Of a scorer that sees the whole trial, each picture has the trial's.

    Raises:
        TrialFailed: the scorer raised an error, gave NaN, infinity, a number without measure, something other than
            numbers, or not one for each image.
        BayesMergerError: what the scorer raised of this package's own, such as ``Paused``.
    """
    if not images:
        return []
    own = [replace(image, image=image.image.copy()) for image in images]  # some shrink a picture in place
    with _own_code(TrialFailed, f"scorer {scorer.name}"):
        whole = len(images) * [scorer.score_trial(own)] if sees_trial(scorer) else None
        values = _numbers(scorer.name, whole or scorer.score(own))
    if len(values) != len(images):
        raise TrialFailed(f"scorer {scorer.name} gave {len(values)} scores for {len(images)} images")
    scores = [
        Score(scorer.name, image.payload, image.index, image.seed, value)
        for image, value in zip(images, values, strict=True)
    ]
    for score in scores:
        check_finite(score)
    return scores


@contextmanager
def _own_code(fault: type[BayesMergerError], who: str) -> Iterator[None]:
    """A call of a scorer, which may be anybody's code: one picture is no reason to end a run.

    Args:
        fault: raised for whatever it raises.
        who: for the error.
    """
    here, torch = Path.cwd(), sys.modules.get("torch")
    dtype = torch and torch.get_default_dtype()
    try:
        yield
    except BayesMergerError:
        raise
    except (Exception, SystemExit) as error:
        said = printable(one_line(error, longest=300), longest=300) or type(error).__name__
        raise fault(f"{who} raised {type(error).__name__}: {said}") from error
    finally:  # all else in this process counts on both
        os.chdir(here)
        if torch:
            torch.set_default_dtype(dtype)


def _numbers(scorer: str, values: Iterable[float]) -> list[float]:
    """A scorer's result as plain numbers; arrays, tensors and generators are accepted like lists."""
    try:
        if isinstance(values, Mapping | Set | str | bytes):  # whose order says nothing of the pictures'
            raise TypeError
        found = list(values)
        if any(isinstance(value, str | bytes) for value in found):
            raise TypeError
        return [float(value) for value in found]
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        given = printable(reprlib.repr(values), longest=200)
        raise TrialFailed(f"scorer {scorer} gave {given} instead of one number for each image") from error


def check_finite(score: Score) -> None:
    """Whether a score is a number that can be averaged.

    Raises:
        TrialFailed: it is not.
    """
    if not abs(score.value) <= LARGEST:  # NaN is not
        raise TrialFailed(f"scorer {score.scorer} gave {score.value} for image {score.index} of {score.payload}")
