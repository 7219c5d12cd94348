"""One process per study that suggests, for any number that only draw.

Whoever suggests needs all of the history, and seconds for a fit; whoever draws needs neither. The proposer keeps a few
suggestions waiting: enough that a worker finds one, few enough that they know the latest scores. It is the parent of
``workers=N``, or one of those started by hand. When it dies, the first worker that finds nothing to draw makes its own
suggestion, so nobody waits for it, and another one becomes the proposer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import optuna
import sqlalchemy
from optuna.study import Study
from optuna.trial import TrialState

from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.alive import healed
from bayes_merger.search.study.entry import Entry
from bayes_merger.search.study.history import WORKER
from bayes_merger.search.study.lock import proposer_lock
from bayes_merger.search.study.queue import LastSuggestion, spent, suggestions
from bayes_merger.search.study.storage import PAUSE
from bayes_merger.search.study.transaction import transaction

PACE = 0.2
"""Seconds between two looks at the queue."""


class Proposer:
    """Keeps suggestions waiting in a study's queue.

    Args:
        study: shared with the workers.
        space: what is searched.
        total: the budget of trials.
        told: called when the number of finished trials has changed.
        last: makes the last suggestion, where that is not the sampler's.
    """

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        total: int,
        told: Callable[[], object] = lambda: None,
        last: LastSuggestion = lambda total: None,
    ) -> None:
        self.study = study
        self.space = space
        self.total = total
        self._told = told
        self._last = last
        self._ahead = 1
        self._spent = -1
        self._taken = 0
        self._workers: set[str] = set()

    def serve(self, over: threading.Event, patience: float = PAUSE) -> None:
        """Propose until the event is set or the budget used up; wait while another process does.

        Args:
            over: ends it.
            patience: seconds between two attempts to take the place of another process, which may have died.
        """
        while not over.is_set() and self._spent < self.total:
            try:
                with proposer_lock(self.study) as check_lock:
                    while check_lock and not over.is_set() and self._spent < self.total:
                        check_lock()
                        if not self.look(check_lock):
                            over.wait(PACE)
            except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
                pass  # the server is away: the lock is gone with the connection, and asked for again
            over.wait(patience)

    def look(self, check_lock: Callable[[], None] = lambda: None) -> bool:
        """Look at the queue once, and add to it if it is short; whether anything was added."""
        with transaction(self.study) as queue:
            entries = healed(self.study, queue)
            done = spent(self.study, queue)
        if done != self._spent:
            self._spent = done
            self._told()
        lacking = self._lacking(entries, done)
        if lacking <= 0:
            return False
        last = self._last(self.total) if lacking == 1 else None
        suggested = [last] if last else list(suggestions(self.study, self.space, lacking))
        check_lock()
        with transaction(self.study) as queue:
            queue.add(suggested)
        return True

    def _lacking(self, entries: list[Entry], done: int) -> int:
        """How many suggestions to add: twice as many as last time if none was left, one less if none was taken."""
        drawn = [entry for entry in entries if entry.is_drawn]
        waiting = sum(e.state == TrialState.WAITING and not e.is_dangerous for e in entries)
        taken, self._taken = done + len(drawn) - self._taken, done + len(drawn)
        self._workers |= {entry.attributes[WORKER]["id"] for entry in drawn}
        if not waiting:
            self._ahead = min(2 * self._ahead, max(len(self._workers), 2 * taken, 1))
        elif waiting >= self._ahead:
            self._ahead = max(1, self._ahead - 1)
        free = self.total - done - len(drawn) - waiting
        if free == 1:  # the last suggestion knows as much as it can
            return 0 if waiting else 1
        return min(self._ahead - waiting, free - 1)
