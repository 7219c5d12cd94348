"""What waits for a person, in the form in which it is shown: opaque ids, pictures in their order, repeats hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from bayes_merger.errors import ConfigError
from bayes_merger.run.rating.album import Album, Picture, Shown, opaque
from bayes_merger.run.rating.awaiting import Answers, Awaiting, awaited, awaiting_of, closing
from bayes_merger.scoring.people.rating import Rating

Group = tuple[Awaiting, ...]
"""Trials that are shown, rated and confirmed together."""


@dataclass(frozen=True)
class Trial:
    """What is rated and confirmed together: the pictures of one merge, or of several, mixed (``scoring.shuffle``).

    Attributes:
        id: opaque.
        pictures: in the order in which they are shown.
        unit: ``picture``: each is rated; ``trial``: all of them get one score.
        score: the one score, with the unit ``trial``.
        later: whether it was put off.
    """

    id: str
    pictures: tuple[Picture, ...]
    unit: str
    score: float | None
    later: bool

    @property
    def unrated(self) -> int:
        """How many scores are missing before it can be confirmed."""
        if self.unit == "trial":
            return int(self.score is None)
        return sum(picture.score is None for picture in self.pictures)


class Queue:
    """The trials of a study that wait, one by one or in groups.

    Args:
        study: the study.
        album: shows the pictures.
        unit: ``picture`` or ``trial``.
        together: how many trials are shown mixed.

    Attributes:
        groups: id of a :class:`Trial` -> what it is made of, of all that were shown.
    """

    def __init__(self, study: optuna.study.Study, album: Album, unit: str, together: int) -> None:
        self._study = study
        self._album = album
        self._unit = unit
        self._together = together if unit == "picture" else 1
        self.groups: dict[str, Group] = {}

    def trials(self, ratings: Sequence[Rating]) -> list[Trial]:
        """What waits, oldest first; what was put off comes last.

        Args:
            ratings: all that is said in the ledger.
        """
        answers = Answers(ratings)
        put_off = {r.trial: place for place, r in enumerate(ratings) if r.kind == "later" and r.trial is not None}
        groups = sorted(self._waiting(ratings), key=lambda group: max(put_off.get(one.number, -1) for one in group))
        return [self.trial(group, answers, any(one.number in put_off for one in group)) for group in groups]

    def trial(self, group: Group, answers: Answers, later: bool = False) -> Trial:
        """Some trials as they are shown."""
        found = opaque("trial", *(f"{one.number} {one.candidate}" for one in group))
        self.groups[found] = group
        shown = [Shown(one, question, repeated=False) for one in group for question in one.pictures]
        repeats = [Shown(one, question, repeated=True) for one in group for question in one.repeats]
        own, again = (
            [self._album.show(one, score_of(one, answers)) for one in some if self._album.has(one.question)]
            for some in (shown, repeats)
        )
        pictures = own
        if len(group) > 1:
            pictures = sorted([*own, *again], key=lambda picture: picture.id)
        elif self._unit == "picture":
            for repeat in again:
                place = int(repeat.id, 16) % (len(own) + 1)
                pictures = [*own[:place], repeat, *own[place:]]
        score = answers.whole(group[0].candidate) if self._unit == "trial" else None
        return Trial(found, tuple(pictures), self._unit, score, later)

    def members(self, trial: str) -> Group:
        """The trials behind an id; with the unit ``trial`` also behind a picture's.

        Raises:
            ConfigError: no such trial.
        """
        if self._unit == "trial" and trial in self._album:
            return (self._album[trial].one,)
        self._check_known(self.groups, trial)
        return self.groups[trial]

    def question(self, picture: str) -> Shown:
        """What a picture is about.

        Raises:
            ConfigError: no such picture.
        """
        self._check_known(self._album, picture)
        return self._album[picture]

    def about(self, line: Rating) -> str | None:
        """The id of the picture that a line of the ledger is about, or of the trial; None if it waits no more."""
        shown_last = reversed(self.groups.values())
        group = next((some for some in shown_last if any(one.number == line.trial for one in some)), None)
        if group is None:
            return None
        trial = self.trial(group, Answers(()))
        for picture in trial.pictures:
            shown, question = self._album[picture.id], self._album[picture.id].question
            own = (question.candidate, question.payload, question.index, shown.one.number, shown.repeated)
            if own == (line.candidate, line.payload, line.index, line.trial, line.kind == "repeat"):
                return picture.id
        return trial.id

    def _waiting(self, ratings: Sequence[Rating]) -> list[Group]:
        closed = closing(ratings)
        groups: dict[int, list[Awaiting]] = {}
        for one in awaited(self._study):
            if one.number not in closed and all(map(self._album.has, one.pictures)):
                groups.setdefault(one.place // self._together if self._together > 1 else one.number, []).append(one)
        return [tuple(group) for group in groups.values()]

    def _check_known(self, table: Album | dict[str, Group], id: str) -> None:
        """Whether an id stands for something, also one of a process before this one.

        Raises:
            ConfigError: it does not.
        """
        if id not in table:
            for group in self._waiting(()):
                self.trial(group, Answers(()))
        if id not in table:  # of a trial that is closed by now, on its own
            for trial in self._study.get_trials(deepcopy=False):
                if (one := awaiting_of(trial)) and all(map(self._album.has, one.pictures)):
                    self.trial((one,), Answers(()))
        if id not in table:
            raise ConfigError("no such picture or trial waits; it may have been closed, so look again")


def score_of(shown: Shown, answers: Answers) -> float | None:
    """What a picture was given so far, 0 to 10."""
    return answers.score(shown.question, shown.one.number if shown.repeated else None)
