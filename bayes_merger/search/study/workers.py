"""A process as one of any number of workers on one study: it takes trials, draws them and tells what they got."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import BayesMergerError, Superseded, trouble
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.alive import healed, lock_of
from bayes_merger.search.study.checked import strangers
from bayes_merger.search.study.entry import Look, Transaction
from bayes_merger.search.study.history import REASON, WEIGHTS, WORKER, finite, origin
from bayes_merger.search.study.lock import proposer_lock
from bayes_merger.search.study.queue import LastSuggestion, completed, queue_again, suggestions, take
from bayes_merger.search.study.storage import BEAT, GRACE, PAUSE, backend, database_file, rest
from bayes_merger.search.study.tables import glance
from bayes_merger.search.study.transaction import transaction

T = TypeVar("T")


def with_retries(study: Study, action: Callable[[], T]) -> T:
    """An action on the study, tried again for ten minutes while a server cannot be reached.

    A server that restarts or a lost connection must not cost the pictures already drawn; a file that cannot be
    written is an error.

    Args:
        study: whose database it is about.
        action: can be done again from its beginning.
    """
    deadline = time.monotonic() + GRACE
    while True:
        try:
            return action()
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError):
            if database_file(backend(study)) or time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE)


def _ended_over_it(error: BaseException | None) -> bool:
    """Whether a process ends because of the trial that it draws: by a fault, not a wish to stop or a full disk."""
    return isinstance(error, Exception) and not isinstance(error, BayesMergerError) and trouble(error) is None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        number: of the trial that has the score: ours, or its second attempt if ours was considered dead.
        done: how many trials of the budget are finished, this one included.
    """

    number: int
    done: int


class Worker:
    """This process as one of the workers on a study.

    A context manager: a trial without an outcome when it ends is requeued.

    Args:
        study: shared with any number of others.
        space: what is searched.
        name: the worker's name, for users.
        beat: seconds between two heartbeats.
        last: makes the last suggestion, where that is not the sampler's.
        patience: seconds that it finds nothing before it makes a suggestion itself, though others stand by to do so.
        ahead: claim nothing while so many trials are drawn and have no score yet; None: as many as there are.

    Attributes:
        awaited: how many trials a person had to rate when it last looked.
        done: how many trials of the budget were finished when it last looked.
        has_proposed: whether it has made a suggestion itself, as nobody else did, and so has read all trials.
    """

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        *,
        name: str = "",
        beat: float = BEAT,
        last: LastSuggestion = lambda total: None,
        patience: float = 0.0,
        ahead: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study = study
        self.space = space
        self.id = secrets.token_hex(6)
        self.name = name
        self._beat = beat
        self._last = last
        self._patience = patience
        self._ahead = ahead
        self._clock = clock
        self._lock = FileLock(lock_of(study, self.id), timeout=0)
        self.done = 0
        self.awaited = 0
        self.has_proposed = False
        self._current: FrozenTrial | None = None
        self._begun = False
        self._in_vain: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="signs of life", daemon=True)

    def __enter__(self) -> Worker:
        Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self._current is not None:
                self.requeue(self._current, died=_ended_over_it(error))
        finally:
            self._over.set()
            self._thread.join()
            self._lock.release()
            with suppress(OSError):  # Windows, where somebody is just looking whether this worker lives
                Path(self._lock.lock_file).unlink()

    def claim(self, total: int) -> FrozenTrial | None:
        """Claim the next trial for this worker; ``None`` if none is available right now.

        A trial is available while those that are finished and those that run are fewer than ``total``: so many are
        finished in the end, neither more nor less, however many workers there are. Others may yet fail or die, so
        ``None`` is only the end when ``total`` are finished.
        """
        self._current = self.with_retries(lambda: self._claim(total))
        if self._current is not None:
            rest(self.study)
            self._in_vain = None
        elif self._in_vain is None:
            self._in_vain = self._clock()
        return self._current

    def _claim(self, total: int) -> FrozenTrial | None:
        if self._in_vain is not None and self._has_to_wait(total):
            return None
        while True:
            with transaction(self.study) as queue:
                seen = self._healed(queue)
                self._know(seen.spent)
                self.awaited = sum(entry.is_awaited for entry in seen.entries)
                unscored = sum(entry.is_drawn for entry in seen.entries)
                if unscored + self.done >= total or (self._ahead is not None and unscored >= self._ahead):
                    return None
                taken = take(queue, seen.entries, self.space, self._about, first=not self._begun)
            if taken is not None:
                self._begun = True
                return self._whole(taken)
            if self._is_patient() or not self._propose(total):
                return None

    def _has_to_wait(self, total: int) -> bool:
        """Whether nothing waits and another process suggests: found out without the queue's lock, which it needs."""
        seen = glance(self.study)
        if seen is None or seen[0]:
            return False
        self._know(seen[1])
        if self.done >= total or self._is_patient():
            return True
        with proposer_lock(self.study) as check_lock:
            return check_lock is None

    def _is_patient(self) -> bool:
        """Whether it still leaves suggestions to others; not once it has made one and so knows the history."""
        waited = 0.0 if self._in_vain is None else self._clock() - self._in_vain
        return waited < self._patience and not self.has_proposed

    def _know(self, spent: int) -> int:
        """How many trials of the budget are finished: those of other programs are not, as far as they are known."""
        self.done = spent - strangers(self.study)
        return self.done

    def _healed(self, queue: Transaction) -> Look:
        """The queue, once the trials of dead workers wait again; and those that a broken connection took."""
        seen = healed(self.study, queue, self.id)
        left = [e for e in seen.entries if e.state == TrialState.RUNNING and e.worker == self.id and not e.is_awaited]
        queue_again(queue, left)
        return queue.look() if left else seen

    def _propose(self, total: int) -> bool:
        """Add a suggestion to the queue, unless another process is about to."""
        with proposer_lock(self.study) as check_lock:
            if check_lock is None:
                return False
            last = self._last(total)
            suggested = [last] if last else list(suggestions(self.study, self.space, 1))
            check_lock()
            with transaction(self.study, in_line=False) as queue:
                queue.add(suggested)
        self.has_proposed = True
        return True

    def _about(self, trial: FrozenTrial) -> dict[str, Any]:
        """What is stored on a trial before any work begins: who does it, and on which merge."""
        whole = trial.params.keys() >= {parameter.name for parameter in self.space.parameters}
        weights = {WEIGHTS: self.space.assemble(trial.params)} if whole else {}
        return {WORKER: {"id": self.id, "host": socket.gethostname(), "pid": os.getpid(), "name": self.name}} | weights

    def _whole(self, taken: FrozenTrial) -> FrozenTrial:
        """A running trial of ours with what the person who queued it left open."""
        if WEIGHTS not in taken.user_attrs:
            completed(self.study, self.space, taken)
            taken.user_attrs[WEIGHTS] = self.space.assemble(taken.params)
            self.study._storage.set_trial_user_attr(taken._trial_id, WEIGHTS, taken.user_attrs[WEIGHTS])
        return taken

    def finished(self) -> int:
        """How many trials of the budget are finished."""

        def count() -> int:
            with transaction(self.study, in_line=False) as queue:
                return queue.look().spent

        return self._know(self.with_retries(count))

    def tell(
        self, trial: FrozenTrial, value: float | Sequence[float], attributes: Mapping[str, Any] | None = None
    ) -> Outcome:
        """The trial's score, with what was learned on the way.

        If ours was considered dead in the meantime, its second attempt gets the score, even one that another worker
        is drawing.

        Raises:
            TrialFailed: if the score is not a finite number; nothing is stored, the trial still runs.
            Superseded: if the second attempt has its score already; ours is not needed.
        """
        values = finite(trial, value)
        return self._settle(trial, TrialState.COMPLETE, values, attributes or {})

    def fail(self, trial: FrozenTrial, reason: str) -> Outcome:
        """The trial has no score, for this reason.

        Raises:
            Superseded: if it was given up as dead in the meantime.
        """
        return self._settle(trial, TrialState.FAIL, None, {REASON: reason})

    def prune(self, trial: FrozenTrial, reason: str, attributes: Mapping[str, Any] | None = None) -> Outcome:
        """The trial was cut short, for this reason.

        Raises:
            Superseded: if it was given up as dead in the meantime.
        """
        return self._settle(trial, TrialState.PRUNED, None, {**(attributes or {}), REASON: reason})

    def set_aside(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """The trial is drawn and goes on without a worker, until a person has rated it.

        Args:
            trial: ours.
            attributes: what was learned so far, and under ``AWAITING`` what is to be rated, last.

        Raises:
            Superseded: if it was given up as dead in the meantime.
        """

        def note() -> bool:
            with transaction(self.study) as queue:
                return queue.note(trial._trial_id, attributes)

        kept = self.with_retries(note)
        self._current = None
        if not kept:
            raise Superseded(f"trial {trial.number} was given up, and is drawn by another worker")

    def requeue(self, trial: FrozenTrial, *, died: bool = False) -> None:
        """Leave the trial to another worker: its values wait again, ahead of all others.

        Args:
            trial: ours.
            died: whether this process ends because of it.
        """
        with transaction(self.study) as queue:
            own = [e for e in queue.entries() if e.id == trial._trial_id and e.state == TrialState.RUNNING]
            queue_again(queue, own, died=died)
            self._current = None

    def with_retries(self, action: Callable[[], T]) -> T:
        """See :func:`with_retries`."""
        return with_retries(self.study, action)

    def _settle(
        self, trial: FrozenTrial, state: TrialState, values: list[float] | None, attributes: Mapping[str, Any]
    ) -> Outcome:
        told: list[tuple[int, int]] = []

        def settle() -> Outcome | None:
            with transaction(self.study) as queue:
                if told and queue.ended(told[0][0]) == state:  # only the answer was lost
                    return Outcome(told[0][1], self._know(queue.look().spent))
                for attempt in self._attempts(queue, trial, scored=state == TrialState.COMPLETE):
                    told[:] = [attempt]
                    spent = queue.finish(attempt[0], state, values, attributes)
                    if spent is not None:
                        return Outcome(attempt[1], self._know(spent))
            return None

        outcome = self.with_retries(settle)
        self._current = None
        if outcome is None:
            raise Superseded(f"trial {trial.number} was finished by another worker")
        return outcome

    def _attempts(self, queue: Transaction, trial: FrozenTrial, scored: bool) -> Iterator[tuple[int, int]]:
        """Id and number of the trials that may stand for ours: itself, and the next one if it was considered dead."""
        yield trial._trial_id, trial.number
        for entry in queue.entries() if scored else ():
            if entry.origin == origin(trial):
                yield entry.id, entry.number

    def _live(self) -> None:
        while not self._over.wait(self._beat):
            if (current := self._current) is not None:
                try:
                    with transaction(self.study, in_line=False) as queue:
                        queue.beat(current._trial_id)
                    rest(self.study)
                except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, KeyError):
                    continue  # the next heartbeat may succeed; the grace period is twenty of them
