"""Trials that are drawn and wait for a person: what is asked about them, and how they get their scores.

Such a trial is still running as far as the optimiser knows, but no worker has it: what is asked is written on the trial
(``awaiting``), what is answered stands in the ledger. Any process may turn one into the other, so a score is there
whoever dies: :func:`settle` gives a trial that the ledger closes its outcome, once, in the study's transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import TrialFailed, one_line
from bayes_merger.run.attributes import CONFIG, POINTS, SCORES
from bayes_merger.run.objectives import objective_values
from bayes_merger.run.points import combination_of
from bayes_merger.run.standards import fix_standards
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.rating import Rating
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.study.history import AWAITING, REASON
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import with_retries

log = logging.getLogger("bayes_merger")

CLOSING = ("confirm", "void")
"""What ends a trial's time with a person; nothing is said about it any more."""

VOID = "marked by hand as one that cannot be judged"
"""The reason of a trial that a person has called broken."""


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

    def whole(self, candidate: str) -> float | None:
        """The score that was given to a merge's pictures together."""
        found = self._given.get((candidate, "", 0))
        return found.score if found else None


def settle(study: optuna.study.Study, ledger: Ledger) -> list[int]:
    """Give the trials that a person has closed their outcome, unless another process did; returns their numbers."""
    waiting = awaited(study)
    if not waiting:
        return []
    ratings = ledger.ratings()
    closed, answers = closing(ratings), Answers(ratings)
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    settled = []
    for one in waiting:
        if one.number not in closed or one.number not in trials:
            continue
        if closed[one.number].kind == "void":
            state, values, about = TrialState.FAIL, None, {REASON: VOID}
        else:
            state, values, about = _outcome(study, one, trials[one.number].user_attrs.get(SCORES) or (), answers)
        if _finish(study, one, state, values, about):
            settled.append(one.number)
    fix_standards(study, log.info)
    return settled


def _finish(
    study: optuna.study.Study,
    one: Awaiting,
    state: TrialState,
    values: Sequence[float] | None,
    attributes: Mapping[str, Any],
) -> bool:
    def finish() -> bool:
        with transaction(study) as queue:
            return queue.finish(one.id, state, values, attributes)

    return with_retries(study, finish)


def _outcome(
    study: optuna.study.Study, one: Awaiting, others: Iterable[Mapping[str, Any]], answers: Answers
) -> tuple[TrialState, list[float] | None, dict[str, Any]]:
    """State, values and attributes of a trial that its rater has confirmed."""
    scores = [*(Score(**score) for score in others), *_scores(one, answers)]
    known = combination_of(study)
    objectives = list(study.user_attrs.get(CONFIG, {}).get("objectives") or ())
    about: dict[str, Any] = {SCORES: [vars(score) for score in scores]}
    try:
        value = known.value(scores)
        values = objective_values(scores, known, objectives)
    except TrialFailed as error:
        return TrialState.FAIL, None, about | {REASON: one_line(error, longest=400)}
    return TrialState.COMPLETE, list(values) or [value], about | ({POINTS: value} if values else {})


def _scores(one: Awaiting, answers: Answers) -> Iterator[Score]:
    for question in one.pictures:
        if (score := answers.score(question)) is not None:
            yield Score(one.scorer, question.payload, question.index, question.seed, score)
