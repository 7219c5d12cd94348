"""What a person is asked about a trial, decided once, when it is drawn: its pictures, and now and then one of before.

A person's scores vary, and only asking the same twice tells by how much. So about every twentieth picture is one that
was rated before, hidden among the others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import optuna

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.awaiting import Awaiting, Question, awaiting_of

EVERY = 20
"""One picture in so many is asked again."""


def asked_about(
    study: optuna.study.Study,
    trial: optuna.trial.FrozenTrial,
    folder: RunFolder,
    scorer: str,
    candidate: str,
    pictures: Sequence[Question],
    every: int = EVERY,
) -> Awaiting:
    """What is asked about a trial that has just been drawn.

    Args:
        study: as far as it is known.
        trial: running.
        folder: where the pictures of all trials lie.
        scorer: the name under which the person's scores are stored.
        candidate: opaque id of the merge.
        pictures: the trial's.
        every: how many pictures are asked for each one that is asked again; 0: none is.
    """
    earlier = [(other, found) for other in study.get_trials(deepcopy=False) if (found := awaiting_of(other))]
    place = max((found.place + 1 for _, found in earlier), default=0)
    repeats: tuple[Question, ...] = ()
    asked = sum(len(found.pictures) for _, found in earlier) + len(pictures)
    again = [question for _, found in earlier for question in found.repeats]
    if every and asked // every > len(again):
        rated = [question for other, found in earlier if other.values for question in found.pictures]
        usable = [question for question in rated if question not in again and folder.pictures([question.image])]
        if usable:
            repeats = (random.Random(f"{candidate} {place}").choice(usable),)
    return Awaiting(trial.number, trial._trial_id, scorer, candidate, place, tuple(pictures), repeats)
