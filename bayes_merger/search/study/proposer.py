"""One process per study that suggests, for any number that only draw.

Whoever suggests needs all of the history, and seconds for a fit; whoever draws needs neither. The proposer keeps one
suggestion waiting for each worker that has nothing to draw, and as many as are taken between two of its looks: so a
worker finds one, and none is older than it need be. It is the parent of ``workers=N``, or one of those started by hand:
each of these stands by to take its place when it dies. Until then workers wait: each that suggested for itself would
read the whole history first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import optuna
import sqlalchemy
from optuna.study import Study
from optuna.trial import TrialState

from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.alive import dead_entries, healed
from bayes_merger.search.study.checked import strangers
from bayes_merger.search.study.entry import Look
from bayes_merger.search.study.lock import proposer_lock
from bayes_merger.search.study.queue import LastSuggestion, suggestions
from bayes_merger.search.study.storage import PAUSE
from bayes_merger.search.study.transaction import transaction

PACE = 0.2
"""Seconds between two looks at the queue."""

STANDBY = 10.0
"""Seconds between two attempts of a worker started by hand to be the proposer; hundreds of them ask one server."""

TAKEOVER = 3 * STANDBY
"""Seconds without a suggestion after which a worker makes its own, as nobody who stood by has become the proposer."""


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
        self._spent = -1
        self._before = total, 0

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
                        if not self.look(check_lock):
                            over.wait(PACE)
            except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
                pass  # the server is away: the lock is gone with the connection, and asked for again
            over.wait(patience)

    def look(self, check_lock: Callable[[], None] = lambda: None) -> bool:
        """Look at the queue once, and add to it if it is short; whether anything was added."""
        seen = self._seen()
        done = seen.spent - strangers(self.study)
        if done != self._spent:
            self._spent = done
            self._told()
        lacking = self._lacking(seen, done)
        if lacking <= 0:
            return False
        last = self._last(self.total) if lacking == 1 else None
        suggested = [last] if last else list(suggestions(self.study, self.space, lacking))
        check_lock()
        with transaction(self.study, in_line=False) as queue:
            queue.add(suggested)
        return True

    def _seen(self) -> Look:
        """The queue, once the trials of dead workers wait again.

        Read out of turn: where workers stand in line, the proposer would get as few turns as each of them.
        """
        with transaction(self.study, in_line=False) as queue:
            seen = queue.look(for_workers=True)
        if not dead_entries(self.study, seen.entries):
            return seen
        with transaction(self.study) as queue:
            return replace(healed(self.study, queue), workers=seen.workers)

    def _lacking(self, seen: Look, done: int) -> int:
        """How many suggestions to add, so that each idle worker finds one, and so do those who take their next trial
        before the next look: as many as told one and took one since the last."""
        waiting = sum(entry.state == TrialState.WAITING and not entry.is_dangerous for entry in seen.entries)
        idle = len(seen.workers - {entry.worker for entry in seen.entries if entry.is_held})
        drawn = sum(entry.is_drawn for entry in seen.entries)
        hasty = min(done - self._before[0], done + drawn - sum(self._before))
        self._before = done, drawn
        free = self.total - done - waiting - drawn
        if free == 1:  # the last suggestion knows as much as it can
            return 0 if waiting else 1
        return min(max(idle, hasty, 1) - waiting, free - 1)
