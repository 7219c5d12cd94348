"""Several workers on one study: which worker has which trial, which are alive, and how many trials are left.

A worker holds an operating system lock for as long as it lives. A process that sees the lock, on the same machine,
knows at once and for certain whether the worker is dead; a worker elsewhere is considered dead after ten minutes
without a heartbeat (:data:`~bayes_merger.search.study.storage.GRACE`), however long its trial takes. Its trial then
waits again, ahead of all others.
"""

from __future__ import annotations

import getpass
import glob
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bayes_merger.errors import BayesMergerError, Superseded, trouble
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import REASON, finite, is_interrupted, origin
from bayes_merger.search.study.lock import beside, is_free, study_lock
from bayes_merger.search.study.queue import WORKER, ask, queue_again, queue_design
from bayes_merger.search.study.storage import BEAT, GRACE, PAUSE, backend, database_file

T = TypeVar("T")

SPENT = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts against the budget of trials."""


def recover(study: Study) -> list[int]:
    """Repair a study whose processes died; living workers are left alone.

    Trials that dead workers left running are failed as interrupted, and their values wait again, ahead of all others;
    so are trials without a known worker. Rows of the start design that were never written are written.

    Returns:
        The numbers of the interrupted trials.
    """
    with study_lock(study):
        queue_design(study)
        dead, strangers = dead_trials(study), [t for t in _running(study) if WORKER not in t.user_attrs]
        queue_again(study, dead, died=True)
        queue_again(study, strangers)
        _sweep(study)
    return sorted(trial.number for trial in dead + strangers)


def dead_trials(study: Study) -> list[FrozenTrial]:
    """The running trials whose worker is dead."""
    owned = [trial for trial in _running(study) if WORKER in trial.user_attrs]
    if not owned:
        return []
    storage = backend(study)
    silent = set() if database_file(storage) else set(storage._get_stale_trial_ids(study._study_id))
    return [trial for trial in owned if _is_dead(study, trial.user_attrs[WORKER], trial._trial_id in silent)]


def _is_dead(study: Study, worker: Mapping[str, Any], silent: bool) -> bool:
    lock = _lock_of(study, worker["id"])
    if database_file(backend(study)):
        return is_free(lock)  # all workers that share a file are on one machine
    seen = worker["host"] == socket.gethostname() and lock.exists()
    return is_free(lock) if seen else silent


def _lock_of(study: Study, worker: str) -> Path:
    file = database_file(backend(study))
    if file:
        return beside(file, f"worker-{worker}")
    return Path(tempfile.gettempdir(), f"bayes-merger-{getpass.getuser()}", worker)


def _sweep(study: Study) -> None:
    """Remove the locks that dead workers left beside the study's file."""
    if file := database_file(backend(study)):
        for lock in file.parent.glob(beside(Path(glob.escape(file.name)), "worker-*").name):
            if is_free(lock):
                lock.unlink(missing_ok=True)


def _running(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def with_retries(study: Study, action: Callable[[], T]) -> T:
    """An action on the study, tried again for ten minutes while a server cannot be reached.

    A server that restarts or a lost connection must not cost the pictures already drawn; a file that cannot be
    written is an error.

    Args:
        study: whose database it is about.
        action: can be done again from its beginning.
    """
    waited = 0.0
    while True:
        try:
            return action()
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError):
            if database_file(backend(study)) or waited >= GRACE:
                raise
            time.sleep(PAUSE)
            waited += PAUSE


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
    """

    def __init__(self, study: Study, space: SearchSpace, *, name: str = "", beat: float = BEAT) -> None:
        self.study = study
        self.space = space
        self.id = secrets.token_hex(6)
        self.name = name
        self._beat = beat
        self._lock = FileLock(_lock_of(study, self.id), timeout=0)
        self._current: Trial | None = None
        self._begun = False
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
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def claim(self, total: int) -> Trial | None:
        """Claim the next trial for this worker; ``None`` if none is available right now.

        A trial is available while those that are finished and those that run are fewer than ``total``: so many are
        finished in the end, neither more nor less, however many workers there are. Others may yet fail or die, so
        ``None`` is only the end when ``total`` are finished.
        """
        return self.with_retries(lambda: self._claim(total))

    def _claim(self, total: int) -> Trial | None:
        with study_lock(self.study) as check_lock:
            # A running trial of ours: the connection broke as we took it.
            left = [t for t in _running(self.study) if t.user_attrs.get(WORKER, {}).get("id") == self.id]
            queue_again(self.study, dead_trials(self.study), died=True)
            queue_again(self.study, left)
            trials = self.study.get_trials(deepcopy=False)
            # What other programs have running is none of the budget's: it may never be finished.
            running = sum(t.state == TrialState.RUNNING and WORKER in t.user_attrs for t in trials)
            if running + sum(t.state in SPENT for t in trials) >= total:
                return None
            self._current = ask(self.study, self.space, self._signature(), check_lock, first=not self._begun)
            self._begun = True
            return self._current

    def tell(
        self, trial: Trial, value: float | Sequence[float], attributes: Mapping[str, Any] | None = None
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

    def fail(self, trial: Trial, reason: str) -> Outcome:
        """The trial has no score, for this reason.

        Raises:
            Superseded: if it was given up as dead in the meantime.
        """
        return self._settle(trial, TrialState.FAIL, None, {REASON: reason})

    def prune(self, trial: Trial, reason: str, attributes: Mapping[str, Any] | None = None) -> Outcome:
        """The trial was cut short, for this reason.

        Raises:
            Superseded: if it was given up as dead in the meantime.
        """
        return self._settle(trial, TrialState.PRUNED, None, {**(attributes or {}), REASON: reason})

    def requeue(self, trial: Trial, *, died: bool = False) -> None:
        """Leave the trial to another worker: its values wait again, ahead of all others.

        Args:
            trial: ours.
            died: whether this process ends because of it.
        """
        with study_lock(self.study):
            own = [t for t in _running(self.study) if t._trial_id == trial._trial_id]
            queue_again(self.study, own, died=died)
            self._current = None

    def with_retries(self, action: Callable[[], T]) -> T:
        """See :func:`with_retries`."""
        return with_retries(self.study, action)

    def _settle(
        self, trial: Trial, state: TrialState, values: list[float] | None, attributes: Mapping[str, Any]
    ) -> Outcome:
        settled: list[int] = []

        def settle() -> Outcome:
            with study_lock(self.study):
                if (
                    not settled or self.study._storage.get_trial(settled[0]).state != state
                ):  # else only the answer was lost
                    current_attempt = self._current_attempt(trial, scored=state == TrialState.COMPLETE)
                    for key, value in attributes.items():
                        self.study._storage.set_trial_user_attr(current_attempt._trial_id, key, value)
                    settled[:] = [current_attempt._trial_id]
                    self.study.tell(current_attempt.number, values, state=state)
                self._current = None
                done = sum(t.state in SPENT for t in self.study.get_trials(deepcopy=False))
                return Outcome(self.study._storage.get_trial(settled[0]).number, done)

        return self.with_retries(settle)

    def _current_attempt(self, trial: Trial, scored: bool) -> FrozenTrial:
        """The trial that stands for ours: itself, unless it was considered dead."""
        own = self.study._storage.get_trial(trial._trial_id)
        if own.state == TrialState.RUNNING:
            return own
        if is_interrupted(own) and scored:
            for other in self.study.get_trials(deepcopy=False):
                if origin(other) == origin(own) and other.state == TrialState.RUNNING:
                    return other
                if origin(other) == origin(own) and other.state == TrialState.WAITING:
                    self.study._storage.set_trial_state_values(other._trial_id, TrialState.RUNNING)
                    return other
        self._current = None
        raise Superseded(f"trial {trial.number} was finished by another worker")

    def _signature(self) -> dict[str, Any]:
        return {"id": self.id, "host": socket.gethostname(), "pid": os.getpid(), "name": self.name}

    def _live(self) -> None:
        while not self._over.wait(self._beat):
            if (current := self._current) is not None:
                try:
                    backend(self.study).record_heartbeat(current._trial_id)
                except (optuna.exceptions.StorageInternalError, UpdateFinishedTrialError, KeyError):
                    continue  # the next heartbeat may succeed; the grace period is twenty of them
