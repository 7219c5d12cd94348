"""Hold-out scorers: whether the search improves the pictures, or only what it is told to look at.

A scorer of importance 0 is recorded and not optimised. Where the points of a search's trials rise while a hold-out's
fall, the search has found what its scorer likes and nobody else does; a linear head on one embedding is easy to
over-optimise. The change over the search is read from a straight line through its `n` trials, `x = 1 ... n`:

    change = b (n - 1),  b = Sxy / Sxx,  standard error = (n - 1) sqrt(sum of squared residuals / (n - 2) / Sxx)

It takes the trials as independent, so it says a little too much where they follow each other closely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from bayes_merger.errors import BayesMergerError
from bayes_merger.run.objectives import points_alone
from bayes_merger.run.points import combination_of
from bayes_merger.run.record import complete_trials, value_of
from bayes_merger.run.standards import scores_of
from bayes_merger.search.study.history import is_suggested

FEWEST = 10
"""Trials of a search: with fewer no trend is told."""

CLEAR = 2.0
"""Standard errors from which a change is told as one."""


@dataclass(frozen=True)
class Change:
    """How far something has moved over a search, in points.

    Attributes:
        by: from the line's first to its last trial.
        error: its standard error.
    """

    by: float
    error: float

    def __str__(self) -> str:
        return f"{self.by:+.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Trend:
    """What became of a hold-out.

    Attributes:
        scorer: its name.
        trials: of the search, with a score.
        points: the change of what is optimised.
        holdout: the change of the hold-out's points.
    """

    scorer: str
    trials: int
    points: Change
    holdout: Change

    @property
    def parts(self) -> bool:
        """Whether what is optimised clearly rises and the hold-out clearly falls."""
        rises = self.points.by > CLEAR * self.points.error
        return rises and self.holdout.by < -CLEAR * self.holdout.error

    def __str__(self) -> str:
        seen = f"over {self.trials} trials of the search the points changed by {self.points}"
        seen += f", those of the hold-out {self.scorer} by {self.holdout}"
        advice = "the search may be pleasing its scorer alone: look at the pictures"
        return f"{seen}; {advice}" if self.parts else seen


def trends(study: optuna.study.Study) -> list[Trend]:
    """One for each hold-out of a study; none while the search is young."""
    known = combination_of(study)
    searched = [trial for trial in complete_trials(study) if is_suggested(trial)] if known.watchers() else []
    found = []
    for name in known.watchers():
        pairs = list(_pairs(study, searched, name))
        if len(pairs) >= FEWEST:
            values, held = zip(*pairs, strict=True)
            found.append(Trend(name, len(pairs), change(values), change(held)))
    return found


def _pairs(study: optuna.study.Study, trials: Sequence[FrozenTrial], name: str) -> Iterator[tuple[float, float]]:
    """The points of each trial, and those of the hold-out, where it has some."""
    known = combination_of(study)
    for trial in trials:
        try:
            yield value_of(trial), points_alone(scores_of(trial), known, name)
        except BayesMergerError:
            continue  # it has not judged this one


def change(values: Sequence[float]) -> Change:
    """How far a straight line through these values rises from the first to the last; at least 3 of them."""
    count = len(values)
    middle, mean = (count - 1) / 2, math.fsum(values) / count
    spread = math.fsum((x - middle) ** 2 for x in range(count))
    slope = math.fsum((x - middle) * (value - mean) for x, value in enumerate(values)) / spread
    rest = math.fsum((value - mean - slope * (x - middle)) ** 2 for x, value in enumerate(values))
    return Change(slope * (count - 1), (count - 1) * math.sqrt(rest / (count - 2) / spread))


def all_alike(study: optuna.study.Study) -> bool:
    """Whether every trial has the same points, so that there is nothing to search for."""
    return len({value_of(trial) for trial in complete_trials(study)}) == 1


class Watch:
    """Says once when a hold-out begins to fall while the points rise, and when all trials are judged alike; it looks at
    every tenth trial.

    Args:
        note: told.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._told: set[str] = set()
        self._next = FEWEST

    def look(self, study: optuna.study.Study, done: int) -> None:
        """Look at a study of which so many trials are finished."""
        if done < self._next:
            return
        if self._next == FEWEST and all_alike(study):
            self._note(
                f"warning: all of {done} trials have the same points: the scorers cannot tell these merges apart"
            )
        self._next = done + 10
        for trend in trends(study):
            if trend.parts and trend.scorer not in self._told:
                self._told.add(trend.scorer)
                self._note(f"warning: {trend}")
