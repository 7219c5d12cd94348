"""Trials that are lent: drawn elsewhere, by somebody who asks for one and later tells what it got.

No process of ours has such a trial, so none can die over it, and every step of it is in the study: whoever lent it may
be gone when it comes back. It is lent until a certain time; if nothing was told by then, it waits again, ahead of all
others, and is told under either number. The same borrower who asks again before telling gets the same trial again, for
another such time: whoever was killed in between goes on where they were.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import Closed, ConfigError, Superseded, printable
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.alive import healed
from bayes_merger.search.study.entry import Entry, Transaction
from bayes_merger.search.study.history import REASON, WORKER, is_interrupted, origin
from bayes_merger.search.study.queue import LastSuggestion, take
from bayes_merger.search.study.sound import is_number
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import Outcome, Worker


class Lender(Worker):
    """Lends a study's trials to one borrower. It need not be entered: it holds nothing itself.

    Args:
        study: shared with any number of others.
        space: what is searched.
        borrower: what they call themselves; everybody of the same name is the same one.
        seconds: until a trial that was not told waits again.
        last: makes the last suggestion, where that is not the sampler's.
    """

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        borrower: str = "",
        seconds: float = 0.0,
        last: LastSuggestion = lambda total: None,
    ) -> None:
        super().__init__(study, space, name=borrower, last=last)
        self.id = hashlib.sha256(f"borrower {borrower}".encode(errors="surrogatepass")).hexdigest()[:12]
        self._seconds = seconds

    def lend(self, total: int) -> FrozenTrial | None:
        """The trial that this borrower has, or the next one; None if there is none now, as in :meth:`claim`."""
        return self.with_retries(lambda: self._lend(total))

    def _lend(self, total: int) -> FrozenTrial | None:
        while True:
            with transaction(self.study) as queue:
                seen = healed(self.study, queue)
                self._know(seen.spent)
                own = next(
                    (one for one in seen.entries if one.is_drawn and one.attributes[WORKER]["id"] == self.id), None
                )
                if own is None and sum(entry.is_drawn for entry in seen.entries) + self.done >= total:
                    return None
                taken = self._longer(queue, own) if own else take(queue, seen.entries, self.space, self._about)
            if taken is not None:
                return self._whole(taken)
            if not self._propose(total):
                return None

    def _longer(self, queue: Transaction, entry: Entry) -> FrozenTrial:
        """A trial that this borrower has, for another such time."""
        trial, lent = queue.trial(entry), self._lent()
        queue.note(entry.id, lent)
        trial.user_attrs |= lent
        return trial

    def _about(self, trial: FrozenTrial) -> dict[str, Any]:
        return super()._about(trial) | self._lent()

    def _lent(self) -> dict[str, Mapping[str, Any]]:
        until = round(time.time() + self._seconds, 3)
        return {WORKER: {"id": self.id, "host": "", "pid": 0, "name": self.name, "until": until}}

    def take_back(self, number: int, score: float | None, reason: str = "") -> Outcome:
        """What a lent trial got: a score, or none and why. The same once more changes nothing.

        Raises:
            ConfigError: there is no such trial, or a score that is no number.
            Closed: it was told otherwise already, or is not lent.
        """
        if score is not None and not is_number(score):
            raise ConfigError(f"score: {printable(str(score), longest=40)} is no number that can be compared")
        trial = next((one for one in self.study.get_trials(deepcopy=False) if one.number == number), None)
        if trial is None:
            raise ConfigError(f"trial {number}: there is none; ask for one first")
        if trial.state == TrialState.WAITING or (trial.state == TrialState.RUNNING and not _is_lent(trial)):
            raise Closed(f"trial {number}: is not lent; ask for one first")
        if trial.state != TrialState.RUNNING and not is_interrupted(trial):
            return self._again(trial, score, reason)
        try:
            return self.fail(trial, reason) if score is None else self.tell(trial, score)
        except Superseded:
            return self._again(trial, score, reason)

    def _again(self, told: FrozenTrial, score: float | None, reason: str) -> Outcome:
        """The outcome of what was told before."""
        for trial in self.study.get_trials(deepcopy=False):
            if origin(trial) == origin(told) and trial.state.is_finished() and not is_interrupted(trial):
                known = trial.values[0] if trial.values else trial.user_attrs.get(REASON)
                if known == (reason if score is None else score):
                    return Outcome(trial.number, self.finished())
                raise Closed(f"trial {told.number}: was told already ({printable(str(known), longest=80)})")
        raise Closed(f"trial {told.number}: its time is over, and it waits again; ask once more")


def _is_lent(trial: FrozenTrial) -> bool:
    return "until" in trial.user_attrs.get(WORKER, {})
