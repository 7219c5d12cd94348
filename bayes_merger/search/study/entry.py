"""What a study's queue is made of, and what can be done with it in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search.study.history import AWAITING, DEATHS, ORIGIN, PHASE, PREDICTED, RETRY_OF, ROW, WORKER
from bayes_merger.search.study.sound import is_sound

SPENT = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts against the budget of trials."""

OPEN = (TrialState.WAITING, TrialState.RUNNING)
"""What the queue is about."""

LATELY = 60
"""Seconds after its last sign of life that a worker without a trial is expected to take one."""

KNOWN = (AWAITING, DEATHS, ORIGIN, PHASE, RETRY_OF, ROW, WORKER)
"""The attributes of a trial that the queue goes by."""

TRIES = 3
"""A merge at which so many processes ended is not tried again."""


@dataclass(frozen=True)
class Entry:
    """A trial that waits or runs.

    Attributes:
        id: in the database.
        number: in the study.
        state: WAITING or RUNNING.
        attributes: those of ``KNOWN`` that are what a run writes.
        silent: whether it is so long since its worker gave a sign of life that the worker must be dead.
    """

    id: int
    number: int
    state: TrialState
    attributes: Mapping[str, Any]
    silent: bool = False

    @property
    def origin(self) -> int:
        """The number of the first attempt at its values."""
        return int(self.attributes.get(ORIGIN, self.number))

    @property
    def deaths(self) -> int:
        """How many processes have ended over its values."""
        return int(self.attributes.get(DEATHS, 0))

    @property
    def is_predicted(self) -> bool:
        """Whether it is the trial that ends a search: where the most is expected."""
        return self.attributes.get(PHASE) == PREDICTED

    @property
    def worker(self) -> str | None:
        """The id of the worker that took it."""
        return str(self.attributes[WORKER]["id"]) if WORKER in self.attributes else None

    @property
    def is_drawn(self) -> bool:
        """Whether a worker draws it, or has drawn it for a person to rate.

        What other programs have running is none of the budget's: it may never be finished.
        """
        return self.state == TrialState.RUNNING and WORKER in self.attributes

    @property
    def is_held(self) -> bool:
        """Whether a worker draws it now."""
        return self.is_drawn and not self.is_awaited

    @property
    def is_awaited(self) -> bool:
        """Whether it is drawn and waits for a person's ratings: no worker has it, so none can die over it."""
        return AWAITING in self.attributes

    @property
    def is_lent(self) -> bool:
        """Whether somebody elsewhere draws it, who has it until a certain time and of whose life nothing is known."""
        return "until" in self.attributes.get(WORKER, {})

    @property
    def is_dangerous(self) -> bool:
        """Whether one more death is its last."""
        return self.deaths >= TRIES - 1


def sound(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the queue goes by and that are what a run writes."""
    return {key: value for key, value in attributes.items() if key in KNOWN and is_sound(key, value)}


@dataclass(frozen=True)
class Look:
    """What a study's queue was at one moment.

    Attributes:
        entries: the trials that wait or run, oldest first.
        spent: how many trials have a score or were cut short, whoever wrote them.
        workers: the ids of those that began a trial or gave a sign of life within the last minute; empty unless asked.
    """

    entries: Sequence[Entry]
    spent: int
    workers: Set[str] = frozenset()


class Transaction(Protocol):
    """A study's queue, for as long as nobody else changes it."""

    def look(self, *, for_workers: bool = False) -> Look:
        """The queue, all of it as it is at one moment, or with a trial that ends meanwhile counted twice."""

    def entries(self) -> Sequence[Entry]:
        """The trials that wait or run, oldest first."""
        return self.look().entries

    def rows(self) -> set[int]:
        """Which rows of the start design are trials already."""

    def trial(self, entry: Entry) -> FrozenTrial:
        """All that is known of an entry."""

    def add(self, trials: Sequence[FrozenTrial]) -> None:
        """New trials, finished or waiting, in this order."""

    def start(self, entry: Entry, attributes: Mapping[str, Any]) -> bool:
        """A waiting trial runs from now on, with these attributes and a first sign of life; False: it did not wait."""

    def beat(self, trial: int) -> None:
        """A sign of life from whoever has a trial, by its id in the database."""

    def note(self, trial: int, attributes: Mapping[str, Any]) -> bool:
        """A running trial, by its id in the database, has these attributes as well; False: it runs no more."""

    def finish(
        self, trial: int, state: TrialState, values: Sequence[float] | None, attributes: Mapping[str, Any]
    ) -> int | None:
        """A trial, by its id in the database, has ended: how many are spent now; None: it had ended already."""

    def ended(self, trial: int) -> TrialState | None:
        """How a trial, by its id in the database, has ended; None: it has not."""
