"""Several workers on one machine: as many processes, one display, one Ctrl-C.

Each is the ``worker`` command on the same study and keeps its models between trials. It tells its parent what it does
in lines of JSON on standard output, and it leaves when its standard input ends: with the parent, whatever that died of.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import IO, Any

import optuna

from bayes_merger.errors import BayesMergerError, ConfigError, Interrupted
from bayes_merger.merging.engine.live import SHARING
from bayes_merger.processes import APART
from bayes_merger.run.beliefs import running_posterior
from bayes_merger.run.budget import with_more_trials
from bayes_merger.run.folder import STORAGE, RunFolder
from bayes_merger.run.holdout import Watch
from bayes_merger.run.live_preview import forget_preview
from bayes_merger.run.loop import crowded, ended, last_of
from bayes_merger.run.outlook import seconds_left
from bayes_merger.run.progress import ProgressReporter, Step, StopSignal, TrialReport
from bayes_merger.run.setup import RunSetup
from bayes_merger.search.study.proposer import Proposer
from bayes_merger.search.study.storage import PAUSE
from bayes_merger.search.study.study import finished

PATIENCE = 60.0
"""Seconds that workers have to requeue their trials when asked to stop at once."""


class PipeReporter:
    """A worker's progress reporter: sends everything to its parent.

    Args:
        stream: to the parent.
        pause: seconds between two reports of the same step's progress.
    """

    def __init__(self, stream: IO[str], pause: float = 0.2) -> None:
        self._stream = stream
        self._pause = pause
        self._last = ("", 0.0)

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Tell it, but not every step of a sampler."""
        now = time.monotonic()
        if text != self._last[0] or now >= self._last[1] + self._pause:
            self._last = (text, now)
            self._send(step=[text, done, total])

    def budget(self, done: int, total: int, of: str = "study", about: str = "") -> None:
        """Every trial's report has it."""

    def trial(self, report: TrialReport) -> None:
        """Tell it."""
        self._send(trial=asdict(report))

    def note(self, text: str) -> None:
        """Tell it."""
        self._send(note=text)

    @contextmanager
    def members(self, names: Sequence[str]) -> Iterator[list[Step]]:
        """A worker has none."""
        yield [self.step for _ in names]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing to hide."""
        yield

    def _send(self, **event: Any) -> None:
        with suppress(BrokenPipeError, ValueError):  # the parent is gone, and so shall we be
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


def reports_to_parent() -> IO[str]:
    """Standard output, for reports alone: whatever else is printed goes to standard error."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def leave_with_parent() -> None:
    """Stop at once, the trial handed back, when standard input ends; after this trial, when a line comes."""

    def ask() -> None:
        if os.name == "posix":
            os.kill(os.getpid(), signal.SIGTERM)
        else:  # where that would end it
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.5)

    # Not through sys.stdin, whose lock would be held when the interpreter ends.
    threading.Thread(target=heed, args=[lambda: os.read(0, 4096), ask], name="parent", daemon=True).start()


def heed(read: Callable[[], bytes], ask: Callable[[], None]) -> None:
    """Ask this process to stop, once for each line of its parent, and twice at the end: the second time is at once."""
    while said := read():
        for _ in range(said.count(b"\n")):
            ask()
    ask()
    ask()


def places(
    count: int, device: str, gpus: Sequence[str], cores: int, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Where each worker computes, as environment variables: its GPU, and its share of the processor and the memory.

    Args:
        count: of workers.
        device: ``generator.device``.
        gpus: as ``CUDA_VISIBLE_DEVICES`` calls them; with more workers than GPUs they share them evenly.
        cores: of the processor.
        environment: what the user has set stays.
    """
    own = [gpus[number % len(gpus)] if gpus and device in ("auto", "cuda") else "" for number in range(count)]
    found = []
    for gpu in own:
        share = {"OMP_NUM_THREADS": str(max(1, cores // count)), SHARING: str(own.count(gpu))}
        place = {name: value for name, value in share.items() if name not in environment}
        found.append({**place, "CUDA_VISIBLE_DEVICES": gpu} if gpu else place)
    return found


def visible_gpus() -> list[str]:
    """The GPUs that this process may use."""
    import torch

    chosen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return chosen[:count] if chosen else [str(number) for number in range(count)]


@dataclass
class WorkerProcess:
    """One worker, as its parent sees it."""

    name: str
    process: subprocess.Popen[str]
    step: Step
    stderr_tail: deque[str] = field(default_factory=lambda: deque(maxlen=30))

    def cause_of_death(self) -> str:
        """Why it ended, in a few words."""
        code = self.process.returncode
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        lines = [line for line in self.stderr_tail if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"


Event = tuple[WorkerProcess, dict[str, Any] | None]


def search_together(
    setup: RunSetup, study: optuna.study.Study, folder: RunFolder, progress: ProgressReporter, stop: StopSignal
) -> None:
    """Let ``workers`` processes run trials until the budget is used up.

    None is started anew: a worker that dies is reported, its trial is drawn again by the others, who go on.

    Raises:
        Interrupted: somebody asked to stop.
        BayesMergerError: all workers died.
    """
    names = [f"worker {number + 1}" for number in range(setup.config.workers)]
    total = setup.trials
    progress.budget(finished(study), total)
    if warning := crowded(len(names), total):
        progress.note(warning)
    gpus = visible_gpus() if setup.config.generator.device in ("auto", "cuda") else []
    if gpus and len(gpus) < len(names):
        progress.note(f"{len(names)} workers on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    where = places(len(names), setup.config.generator.device, gpus, cores, os.environ)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with progress.members(names) as steps:
        workers = [
            _start(name, folder, place, step, events) for name, place, step in zip(names, where, steps, strict=True)
        ]
        try:
            with proposing(setup, study, progress):
                _follow(workers, events, progress, stop, folder, partial(seconds_left, setup, study))
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.kill()
                worker.process.wait()
    stop.check()
    if finished(study) < total and all(worker.process.returncode for worker in workers):
        kind = ConfigError if all(m.process.returncode == ConfigError.exit_code for m in workers) else BayesMergerError
        raise kind(f"all workers ended early, the last one: {workers[-1].cause_of_death()}")


@contextmanager
def proposing(
    setup: RunSetup, study: optuna.study.Study, progress: ProgressReporter, patience: float = PAUSE
) -> Iterator[None]:
    """Make the suggestions for workers, and look whether the search should end, in a thread beside this block.

    Args:
        setup: of the run.
        study: used by nobody else in this process.
        progress: shows why the search ended.
        patience: seconds between two attempts to take the place of a proposer that may have died.

    Raises:
        BayesMergerError: the optimiser failed.
    """
    over, watch = threading.Event(), Watch(progress.note)

    def look() -> None:
        known = study.user_attrs
        proposer.total = with_more_trials(setup, known).trials
        running_posterior(study)  # stored for the workers' reports
        watch.look(study, finished(study))
        if ended(setup, study, progress, known):
            over.set()

    total = setup.trials
    proposer = Proposer(study, setup.space, total, look, last_of(setup, study, progress))
    with ThreadPoolExecutor(1, thread_name_prefix="proposer") as threads:
        served = threads.submit(proposer.serve, over, patience)
        try:
            yield
        finally:
            over.set()
    served.result()


def _start(
    name: str, folder: RunFolder, place: Mapping[str, str], step: Step, events: queue.SimpleQueue[Event]
) -> WorkerProcess:
    """Start a worker and the threads that listen to it."""
    command = [sys.executable, "-m", "bayes_merger", "worker", folder.name, "--runs", str(folder.path.parent)]
    secret = {STORAGE: str(folder.where)} if "://" in str(folder.where) else {}  # not for the eyes of `ps`
    process = subprocess.Popen(
        [*command, "--report-as", name],
        env={**os.environ, **place, **secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **APART,  # Ctrl-C is the parent's to pass on
    )
    worker = WorkerProcess(name, process, step)
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None

    def heed_errors() -> None:
        worker.stderr_tail.extend(line.rstrip("\n") for line in err)

    words = threading.Thread(target=heed_errors, daemon=True)

    def heed_reports() -> None:
        for line in out:
            events.put((worker, json.loads(line)))
        words.join()
        process.wait()
        events.put((worker, None))

    words.start()
    threading.Thread(target=heed_reports, daemon=True).start()
    return worker


def _follow(
    workers: Sequence[WorkerProcess],
    events: queue.SimpleQueue[Event],
    progress: ProgressReporter,
    stop: StopSignal,
    folder: RunFolder,
    left: Callable[[int], float | None],
) -> None:
    """Show what the workers report until the last one has ended; pass on the wish to stop."""
    working, signalled = len(workers), False
    at_once: Interrupted | None = None
    deadline = math.inf
    while working and time.monotonic() < deadline:
        try:
            stop.tell()
            if stop.asked and not signalled:
                signalled = True
                _signal(workers)
            with suppress(queue.Empty):
                worker, event = events.get(timeout=0.2)
                if event is not None:
                    _show(worker, event, progress, left)
                else:
                    working -= 1
                    _report_exit(worker, working, len(workers), progress, stop, folder)
        except Interrupted as error:
            if at_once is not None:
                raise  # a third time: no more waiting
            at_once, deadline = error, time.monotonic() + PATIENCE
            if not signalled:
                signalled = True
                _signal(workers)
                time.sleep(0.3)  # two signals at the same moment count as one
            _signal(workers)
    if at_once is not None:
        raise at_once


def _signal(workers: Sequence[WorkerProcess]) -> None:
    """Ask all to stop; the second time, at once."""
    for worker in workers:
        with suppress(OSError):
            if os.name == "posix":
                worker.process.send_signal(signal.SIGTERM)
            elif worker.process.stdin:  # Windows has no signals for others
                worker.process.stdin.write("\n")
                worker.process.stdin.flush()


def _show(
    worker: WorkerProcess, event: Mapping[str, Any], progress: ProgressReporter, left: Callable[[int], float | None]
) -> None:
    if "step" in event:
        worker.step(*event["step"])
    elif "trial" in event:
        report = TrialReport(**event["trial"])
        progress.trial(replace(report, left=left(report.done)))
    elif "note" in event:
        progress.note(f"{worker.name}: {event['note']}")


def _report_exit(
    worker: WorkerProcess, left: int, count: int, progress: ProgressReporter, stop: StopSignal, folder: RunFolder
) -> None:
    worker.step("stopped", 0, 0)
    forget_preview(folder, worker.process.pid)
    asked = (Interrupted.exit_code, -signal.SIGTERM) if stop.asked else ()
    if worker.process.returncode in (0, *asked):
        return
    progress.note(
        f"{worker.name} died ({worker.cause_of_death()}); what it drew is drawn again, {left} of {count} workers go on"
    )
    if len(worker.stderr_tail) > 1:  # a traceback: for the log, not for the screen
        with folder.log.open("a", encoding="utf-8") as log:
            log.writelines(f"    {line}\n" for line in worker.stderr_tail)
