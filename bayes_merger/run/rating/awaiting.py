"""Trials that are drawn and wait for a person: what is asked about them, and what was answered.

Such a trial is still running as far as the optimiser knows, but no worker has it: what is asked is written on the trial
(``awaiting``), what is answered stands in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.scoring.people.rating import Rating
from bayes_merger.search.study.history import AWAITING

CLOSING = ("confirm", "void")
"""What ends a trial's time with a person; nothing is said about it any more."""


@dataclass(frozen=True)
class Question:
    """A picture that a person is asked to rate.

    Attributes:
        candidate: opaque id of the merge that drew it.
        payload: name of the payload.
        index: which picture of it.
        seed: of its noise.
        image: where it lies, relative to the run's folder.
    """

    candidate: str
    payload: str
    index: int
    seed: int
    image: str


@dataclass(frozen=True)
class Awaiting:
    """A trial that waits for a person.

    Attributes:
        number: of the trial.
        id: of the trial in the database.
        scorer: the name under which the person's scores are stored.
        candidate: opaque id of the merge.
        place: how many trials were set aside before it.
        pictures: its own.
        repeats: pictures of earlier trials that are asked again with them; these answers measure the rater.
    """

    number: int
    id: int
    scorer: str
    candidate: str
    place: int
    pictures: tuple[Question, ...]
    repeats: tuple[Question, ...]

    def stored(self) -> dict[str, Any]:
        """As it stands on the trial."""
        lists = {key: [asdict(one) for one in getattr(self, key)] for key in ("pictures", "repeats")}
        return {"scorer": self.scorer, "candidate": self.candidate, "place": self.place, **lists}


def awaiting_of(trial: FrozenTrial) -> Awaiting | None:
    """What is asked, or was asked, about a trial; None if nothing."""
    stored = trial.user_attrs.get(AWAITING)
    if stored is None:
        return None
    pictures, repeats = (tuple(Question(**one) for one in stored[key]) for key in ("pictures", "repeats"))
    return Awaiting(
        trial.number, trial._trial_id, stored["scorer"], stored["candidate"], stored["place"], pictures, repeats
    )


def awaited(study: optuna.study.Study) -> list[Awaiting]:
    """The trials that wait for a person, or whose outcome is not stored yet; oldest first."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return sorted(filter(None, map(awaiting_of, running)), key=lambda one: (one.place, one.number))


def closing(ratings: Iterable[Rating]) -> dict[int, Rating]:
    """Trial -> the line of the ledger that closed it; the first one counts."""
    found: dict[int, Rating] = {}
    for rating in ratings:
        if rating.kind in CLOSING and rating.trial is not None:
            found.setdefault(rating.trial, rating)
    return found


class Answers:
    """The scores in a ledger, as it is now.

    Args:
        ratings: those that are valid, oldest first.
    """

    def __init__(self, ratings: Iterable[Rating]) -> None:
        self._given: dict[tuple[Any, ...], Rating] = {}
        for rating in ratings:
            if rating.kind == "score":
                self._given[rating.candidate, rating.payload, rating.index] = rating
            elif rating.kind == "repeat":
                self._given[rating.candidate, rating.payload, rating.index, rating.trial] = rating

    def score(self, question: Question, repeated_in: int | None = None) -> float | None:
        """The answer to a question: 0 to 10, None if there is none.

        Args:
            question: about a picture.
            repeated_in: the trial in which it is asked again; None: when it was asked first.
        """
        key = (question.candidate, question.payload, question.index)
        own = self._given.get(key if repeated_in is None else (*key, repeated_in))
        if own is not None and own.seed in (None, question.seed):
            return own.score
        return self.whole(question.candidate) if repeated_in is None else None

    def repeated(self) -> list[tuple[float, float]]:
        """The two scores of each picture that was asked twice."""
        pairs = [(self._given.get(key[:3]), again) for key, again in self._given.items() if len(key) > 3]
        return [
            (first.score, again.score)
            for first, again in pairs
            if first is not None and first.score is not None and again.score is not None
        ]

    def whole(self, candidate: str) -> float | None:
        """The score that was given to a merge's pictures together."""
        found = self._given.get((candidate, "", 0))
        return found.score if found else None
