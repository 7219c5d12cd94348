"""Simulated workers for ``workers.py``: processes that take and tell as a run's do, and draw nothing in between."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import create_trial

from bayes_merger.run.loop import LONGEST, SHORTEST
from bayes_merger.search import build_space, samplers
from bayes_merger.search.study.proposer import TAKEOVER, Proposer
from bayes_merger.search.study.storage import backend, open_storage
from bayes_merger.search.study.study import create_study, load_study
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import Worker

BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
SPACE = build_space(BLOCKS, {"alpha": (0.0, 1.0)})
DISTRIBUTIONS = SPACE.distributions()


def about(value: float) -> dict[str, Any]:
    """What a run stores with a score."""
    pictures = [{"scorer": "s", "payload": "p", "index": i, "seed": i, "value": value} for i in range(8)]
    return {"scores": pictures, "images": [f"images/0000/p-{i}.png" for i in range(8)], "seconds": 1.0}


def score(values: dict[str, float]) -> float:
    """Of a merge; another one for every merge."""
    return -sum((value - 0.4) ** 2 for value in values.values())


def new_study(address: str, name: str, finished: int) -> None:
    """A study in which so many trials are finished."""
    study = create_study(
        open_storage(address), name, samplers.random(DISTRIBUTIONS, 1), space=SPACE, fingerprint={}, design=[]
    )
    rng = random.Random(1)
    done = []
    for _ in range(finished):
        values = {key: rng.random() for key in DISTRIBUTIONS}
        attributes = {"phase": "search", "weights": SPACE.assemble(values), **about(0.5)}
        done.append(
            create_trial(value=score(values), params=values, distributions=dict(DISTRIBUTIONS), user_attrs=attributes)
        )
    with transaction(study) as queue:
        queue.add(done)


def beforehand(address: str, name: str, finished: int) -> None:
    """The same from a process of its own: what it remembers is no worker's."""
    os.waitpid(start(lambda log: new_study(address, name, finished), Path(os.devnull)), 0)


def opened(address: str, name: str) -> Any:
    """The study as a worker has it."""
    return load_study(open_storage(address, create=False), name, samplers.random(DISTRIBUTIONS, 1), whole=False)


@dataclass
class Log:
    """What one process did."""

    joining: float = 0.0
    cpu: float = 0.0
    statements: int = 0
    megabytes: float = 0.0
    vain: int = 0

    def __post_init__(self) -> None:
        self.take: list[float] = []
        self.tell: list[float] = []

    def count(self, storage: Any) -> None:
        def sent(*_: Any) -> None:
            self.statements += 1

        sqlalchemy.event.listen(storage.engine, "before_cursor_execute", sent)

    def begin(self, ready: Path, go: Path) -> None:
        """Say that this process has joined, and begin to count once all have."""
        self.joining = time.process_time()
        ready.touch()
        while not go.exists():
            time.sleep(0.1)
        self.statements, self.cpu = 0, -time.process_time()

    def write(self, file: Path) -> None:
        self.cpu += time.process_time()
        private = re.search(r"Private_Dirty: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
        self.megabytes = int(private[1]) / 1e3 if private else float("nan")
        file.write_text(json.dumps(asdict(self) | {"take": self.take, "tell": self.tell}))


def work(
    address: str,
    name: str,
    total: int,
    over: Callable[[], bool],
    log: Log,
    begin: Callable[[], None] = lambda: None,
    told: Path | None = None,
) -> None:
    """A worker without drawing; what it told is noted once the answer is there."""
    study = opened(address, name)
    log.count(backend(study))
    pause = SHORTEST
    with Worker(study, SPACE, patience=TAKEOVER) as worker:
        worker.finished()  # as a run's worker does, to say so
        begin()
        while not over():
            started = time.perf_counter()
            trial = worker.claim(total)
            if trial is None:
                log.vain += 1
                if worker.done >= total:
                    break
                time.sleep(pause)
                pause = min(2 * pause, LONGEST)
                continue
            pause = SHORTEST
            log.take.append(time.perf_counter() - started)
            started = time.perf_counter()
            value = score(trial.params)
            outcome = worker.tell(trial, value, about(value))
            log.tell.append(time.perf_counter() - started)
            if told:
                with told.open("a") as file:
                    file.write(f"{outcome.number} {value!r}\n")


def propose(address: str, name: str, total: int, log: Log) -> None:
    """The one who suggests; ends with SIGTERM."""
    study = opened(address, name)
    log.count(backend(study))
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    Proposer(study, SPACE, total).serve(over)


def plain(address: str, name: str, over: Callable[[], bool], log: Log, begin: Callable[[], None]) -> None:
    """A worker of Optuna's own."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(address.replace("postgresql://", "postgresql+psycopg://"))
    log.count(storage)
    study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler())
    study.get_trials(deepcopy=False)  # Optuna reads them at its first suggestion
    begin()
    while not over():
        started = time.perf_counter()
        trial = study.ask(dict(DISTRIBUTIONS))
        trial.set_user_attr("weights", SPACE.assemble(trial.params))
        log.take.append(time.perf_counter() - started)
        started = time.perf_counter()
        for key, value in about(0.5).items():
            trial.set_user_attr(key, value)
        study.tell(trial, score(trial.params))
        log.tell.append(time.perf_counter() - started)


def start(action: Callable[[Log], None], file: Path) -> int:
    """A process of its own, forked from this one, which has imported everything; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        base, log = time.process_time(), Log()
        action(log)
        log.joining -= base
        log.write(file)
        code = 0
    finally:
        os._exit(code)
