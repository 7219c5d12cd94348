"""The play-off at the end: the best few merges in pairs, prompt by prompt, blind, until a champion is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial

from bayes_merger.errors import Closed, ConfigError
from bayes_merger.run.attributes import IMAGES, PAYLOADS, PLAYOFF, WEIGHTS
from bayes_merger.run.champion import PlayOff, play_off_of
from bayes_merger.run.fingerprint import candidate_id
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.album import Album, Picture, Shown, opaque
from bayes_merger.run.rating.awaiting import Awaiting, Question
from bayes_merger.run.rating.strengths import bradley_terry
from bayes_merger.run.record import complete_trials, posterior_of
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.rating import Rating

Side = Literal["left", "right", "neither"]


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt and seed.

    Attributes:
        id: opaque.
        payload: name of the payload.
        left: one of them; which merge is on which side is drawn for each pair.
        right: the other.
        answer: what was said so far; None if nothing.
    """

    id: str
    payload: str
    left: Picture
    right: Picture
    answer: Side | None


@dataclass(frozen=True)
class Bracket:
    """How far a play-off is.

    Attributes:
        pairs: all of them, in the order in which they are asked.
        over: whether the champion is known.
    """

    pairs: tuple[Pair, ...]
    over: bool

    @property
    def open(self) -> tuple[Pair, ...]:
        """What is still to be compared."""
        return tuple(pair for pair in self.pairs if pair.answer is None)


def begin_play_off(study: optuna.study.Study, folder: RunFolder, count: int) -> PlayOff | None:
    """Fix who takes part, unless it is; None if there are not two merges whose pictures are there.

    Args:
        study: whose search is over.
        folder: where its pictures lie.
        count: how many of the best, by posterior mean.
    """
    trials = {trial.number: trial for trial in complete_trials(study)}
    known = play_off_of(study, trials)
    if known or len(study.directions) > 1:
        return known
    able = [number for number, trial in trials.items() if len(_questions(study, folder, trial)) == len(_names(study))]
    ranked = [number for number in posterior_of(study).candidates(len(trials)) if number in able]
    if len(ranked[:count]) < 2:
        return None
    found = PlayOff(tuple(ranked[:count]), after=len(trials))
    study.set_user_attr(PLAYOFF, found.to_json())
    return found


class PlayingOff:
    """A play-off in a sitting.

    Args:
        study: the study; its play-off has begun.
        folder: where its pictures lie.
        ledger: of what was said.
        album: shows the pictures.
    """

    def __init__(self, study: optuna.study.Study, folder: RunFolder, ledger: Ledger, album: Album) -> None:
        self._study = study
        self._folder = folder
        self._ledger = ledger
        self._album = album

    def bracket(self) -> Bracket | None:
        """The pairs; None before it has begun."""
        trials = {trial.number: trial for trial in complete_trials(self._study)}
        known = play_off_of(self._study, trials)
        if known is None:
            return None
        said = _said(self._ledger.ratings())
        pairs = [
            self._pair(first, second, said)
            for one, other in combinations([trials[number] for number in known.trials], 2)
            for first, second in zip(*(_questions(self._study, self._folder, t) for t in (one, other)), strict=False)
        ]
        return Bracket(tuple(sorted(pairs, key=lambda pair: pair.id)), known.champion is not None)

    def prefer(self, pair: str, side: Side, ms: int | None, rater: str) -> None:
        """Keep which picture of a pair is better.

        Raises:
            Closed: the play-off is over.
            ConfigError: no such pair.
        """
        bracket = self.bracket()
        found = {one.id: one for one in bracket.pairs} if bracket else {}
        if bracket is None or pair not in found:
            raise ConfigError("no such pair is compared; look again")
        if bracket.over:
            raise Closed("the play-off is over; its champion is the best merge")
        left, right = (self._album[picture.id].question for picture in (found[pair].left, found[pair].right))
        won = {"left": 1.0, "right": 0.0, "neither": 0.5}[side]
        about = {"score": won, "other": right.candidate, "seed": left.seed, "ms": ms, "rater": rater}
        self._ledger.append("prefer", left.candidate, left.payload, left.index, **about)

    def pair_of(self, line: Rating) -> str:
        """The id of the pair that a line of the ledger is about."""
        return _id(line.candidate, line.other or "", line.payload)

    def end(self) -> PlayOff:
        """Compute the champion from what was said, and store it; once.

        Raises:
            ConfigError: it has not begun.
        """
        trials = {trial.number: trial for trial in complete_trials(self._study)}
        known = play_off_of(self._study, trials)
        if known is None:
            raise ConfigError("there is no play-off yet; it begins when the search is over")
        if known.champion is not None:
            return known
        place = {candidate_id(trials[number].user_attrs[WEIGHTS]): i for i, number in enumerate(known.trials)}
        outcomes = [
            (place[line.candidate], place[line.other], line.score)
            for line in _said(self._ledger.ratings()).values()
            if line.candidate in place and line.other in place and line.score is not None
        ]
        found = bradley_terry(len(known.trials), outcomes)
        champion = known.trials[found.champion]
        over = PlayOff(known.trials, champion, found.strengths, found.errors, len(outcomes), known.after)
        self._study.set_user_attr(PLAYOFF, over.to_json())
        return over

    def _pair(self, first: Question, second: Question, said: dict[str, Rating]) -> Pair:
        found = _id(first.candidate, second.candidate, first.payload)
        sides = (first, second) if int(found, 16) % 2 else (second, first)
        left, right = (self._album.show(Shown(_PLAYED, question, repeated=False)) for question in sides)
        answer: Side | None = None
        if line := said.get(found):
            won = line.score if line.candidate == sides[0].candidate else 1 - (line.score or 0.0)
            answer = "neither" if won == 0.5 else "left" if won else "right"
        return Pair(found, first.payload, left, right, answer)


_PLAYED = Awaiting(-1, 0, "", "", 0, (), ())  # no trial waits for what is said in a play-off


def _said(ratings: Sequence[Rating]) -> dict[str, Rating]:
    """Pair -> what was said of it last."""
    lines = (line for line in ratings if line.kind == "prefer" and line.other)
    return {_id(line.candidate, line.other or "", line.payload): line for line in lines}


def _id(one: str, other: str, payload: str) -> str:
    return opaque("pair", *sorted((one, other)), payload)


def _names(study: optuna.study.Study) -> list[str]:
    return [payload["name"] for payload in study.user_attrs.get(PAYLOADS) or ()]


def _questions(study: optuna.study.Study, folder: RunFolder, trial: FrozenTrial) -> list[Question]:
    """The first picture of each payload that is there."""
    images = {Path(name).name: name for name in trial.user_attrs.get(IMAGES, ())}
    candidate = candidate_id(trial.user_attrs[WEIGHTS])
    found = []
    for payload in study.user_attrs.get(PAYLOADS) or ():
        name = images.get(f"{payload['name']}-0.png")
        if name and folder.pictures([name]):
            found.append(Question(candidate, payload["name"], 0, payload["seeds"][0], name))
    return found
