"""Which workers are alive, and what those leave that die: a trial that waits again, ahead of all others.

A worker holds an operating system lock for as long as it lives. A process that sees the lock, on the same machine,
knows at once and for certain whether the worker is dead; a worker elsewhere is considered dead after ten minutes
without a heartbeat (:data:`~bayes_merger.search.study.storage.GRACE`), however long its trial takes.
"""

from __future__ import annotations

import getpass
import glob
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from bayes_merger.search.study.entry import Entry, Look, Transaction
from bayes_merger.search.study.history import DESIGN, WORKER
from bayes_merger.search.study.lock import beside, is_free
from bayes_merger.search.study.queue import queue_again, queue_design
from bayes_merger.search.study.storage import backend, database_file
from bayes_merger.search.study.transaction import transaction


def recover(study: Study) -> list[int]:
    """Repair a study whose processes died; living workers are left alone.

    Trials that dead workers left running are failed as interrupted, and their values wait again, ahead of all others;
    so are trials without a known worker. Rows of the start design that were never written are written.

    Returns:
        The numbers of the interrupted trials.
    """
    design = study.user_attrs[DESIGN]
    with transaction(study) as queue:
        queue_design(queue, design)
        running = [entry for entry in queue.entries() if entry.state == TrialState.RUNNING]
        dead = dead_entries(study, running)
        strangers = [entry for entry in running if WORKER not in entry.attributes and not entry.is_awaited]
        queue_again(queue, dead, died=True)
        queue_again(queue, strangers)
    _sweep(study)
    return sorted(entry.number for entry in dead + strangers)


def dead_entries(study: Study, entries: Iterable[Entry]) -> list[Entry]:
    """The running trials whose worker is dead; one that awaits ratings needs none."""
    return [e for e in entries if e.is_held and _is_dead(study, e.attributes[WORKER], e.silent)]


def healed(study: Study, queue: Transaction, alive: str = "") -> Look:
    """The queue, once the trials of dead workers wait again.

    Args:
        study: whose queue it is.
        queue: its transaction.
        alive: the worker that asks.
    """
    seen = queue.look()
    dead = dead_entries(study, (entry for entry in seen.entries if entry.worker != alive))
    queue_again(queue, dead, died=True)
    return queue.look() if dead else seen


def at_work(study: Study) -> int:
    """How many workers are drawing now."""
    with transaction(study) as queue:
        return len({entry.worker for entry in queue.entries() if entry.is_held})


def _is_dead(study: Study, worker: Mapping[str, Any], silent: bool) -> bool:
    if (until := worker.get("until")) is not None:  # no process: see bayes_merger.search.study.lending
        return time.time() >= float(until)
    lock = lock_of(study, worker["id"])
    if database_file(backend(study)):
        return is_free(lock)  # all workers that share a file are on one machine
    seen = worker["host"] == socket.gethostname() and lock.exists()
    return is_free(lock) if seen else silent


def lock_of(study: Study, worker: str) -> Path:
    """The file that a worker keeps locked for as long as it lives."""
    file = database_file(backend(study))
    if file:
        return beside(file, f"worker-{worker}")
    return Path(tempfile.gettempdir(), f"bayes-merger-{getpass.getuser()}", worker)


def _sweep(study: Study) -> None:
    """Remove the locks that dead workers left beside the study's file."""
    if file := database_file(backend(study)):
        for lock in file.parent.glob(beside(Path(glob.escape(file.name)), "worker-*").name):
            if is_free(lock):
                with suppress(OSError):
                    lock.unlink()
