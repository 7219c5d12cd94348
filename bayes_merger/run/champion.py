"""The play-off of a study by hand, as the study remembers it: who took part, and who won."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, cast

import optuna

from bayes_merger.run.attributes import PLAYOFF
from bayes_merger.run.stored import is_a


@dataclass(frozen=True)
class PlayOff:
    """A play-off.

    Attributes:
        trials: that take part.
        champion: the one that won; None before the end.
        strengths: log odds of winning, of each; empty before the end.
        errors: their standard errors.
        compared: how many pairs of pictures were looked at.
        after: how many trials had a score when it began; with more it is out of date.
    """

    trials: tuple[int, ...]
    champion: int | None = None
    strengths: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    compared: int = 0
    after: int = 0

    def __str__(self) -> str:
        each = sorted(zip(self.strengths, self.errors, self.trials, strict=True), reverse=True)
        listed = ", ".join(f"trial {trial} {strength:+.2f} ± {error:.2f}" for strength, error, trial in each)
        return f"play-off of {self.compared} pairs (log odds of winning): {listed}"

    def to_json(self) -> dict[str, Any]:
        """Plain data for the study."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def play_off_of(study: optuna.study.Study, scored: Collection[int]) -> PlayOff | None:
    """What a study remembers; None if there was no play-off, or it is out of date or not what a run writes.

    Args:
        study: the study.
        scored: the numbers of the trials that have a score.
    """
    stored: Any = study.user_attrs.get(PLAYOFF)
    try:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        found = PlayOff(**cast(dict[str, Any], given))
    except (AttributeError, TypeError):
        return None
    over = found.champion is not None
    sound = (
        isinstance(found.trials, tuple)
        and len(found.trials) > 1
        and all(is_a(trial, int) and trial in scored for trial in found.trials)
        and (not over or found.champion in found.trials)
        and is_a(found.compared, int)
        and found.after == len(scored)
        and all(
            isinstance(own, tuple)
            and len(own) == (len(found.trials) if over else 0)
            and all(is_a(number, (int, float)) for number in own)
            for own in (found.strengths, found.errors)
        )
    )
    return found if sound else None
