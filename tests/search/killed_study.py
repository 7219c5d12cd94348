"""A process that runs studies in children of its own and lets them be killed, for tests/search/test_killed.py.

One JSON line in: ``{"storage": file, "optimiser": name, "trials": n, "deadly": k, "moment": ..., "slow": false}``; one
out: ``{"signal": 9, "statement": n, "before": m, "after": m}``. The child gets SIGKILL at its k-th transaction, right
``before`` or right ``after`` it reaches the disk, or before its k-th ``statement``: a study's state changes nowhere
else, so every k is every moment there is. ``slow`` makes it write through Optuna's own API. It serves from one warm
process because importing the optimisers takes a second, a run of a tiny study a twentieth of that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy

from bayes_merger.search import SearchSpace, build_space
from bayes_merger.search.study.quick import QuickStorage
from bayes_merger.search.study.study import design, finished, open_storage, open_study
from bayes_merger.search.study.workers import Worker
from tests.search.optimiser_configs import QUICK, sampler_of


class OtherVersion(QuickStorage):
    """A storage whose tables are not those that we know."""

    def get_current_version(self) -> str:
        return "v99"


SPACE = build_space(("BASE", "IN00", "M00"), {"alpha": (0.0, 1.0)}, ranges={"M00": [0.2, 0.7]})
DESIGN = 4


def score(values: dict[str, float]) -> float:
    return -sum((value - 0.4) ** 2 for value in values.values())


def is_cursed(values: dict[str, float]) -> bool:
    """About one trial in five cannot be judged, and the same one again cannot either."""
    return int(values["IN00.alpha"] * 1000) % 5 == 0


def run(storage: Any, optimiser: str, trials: int, space: SearchSpace = SPACE) -> None:
    """What a run does, from whatever is there to so many scores."""
    sampler = sampler_of(optimiser, space.distributions(), 11, **QUICK.get(optimiser, {}))
    rows = design(space, DESIGN, 11)
    study = open_study(storage, "s", sampler, space=space, fingerprint={"seed": 11}, design=rows)
    with Worker(study, space) as worker:
        while finished(study) < trials:
            trial = worker.claim(trials)
            assert trial is not None
            if is_cursed(trial.params):
                worker.fail(trial, "black picture")
                continue
            worker.tell(trial, score(trial.params), {"scores": [trial.params["BASE.alpha"]]})


def count(storage: Any, deadly: int, moment: str, report: Path) -> None:
    """Die at the k-th such moment; what there was of each is in the report."""
    done = {"statement": 0, "before": 0, "after": 0}

    def happens(now: str) -> None:
        done[now] += 1
        if done[now] == deadly and now == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        report.write_text(json.dumps(done))

    committed = False

    def commit(connection: sqlalchemy.Connection) -> None:
        nonlocal committed
        committed = True
        happens("before")

    def checkin(*_: object) -> None:
        nonlocal committed
        if committed:
            committed = False
            happens("after")

    report.write_text(json.dumps(done))
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", lambda *_: happens("statement"))
    sqlalchemy.event.listen(storage.engine, "commit", commit)
    sqlalchemy.event.listen(storage.engine, "checkin", checkin)


def warm_up(optimiser: str) -> None:
    """Import what the optimiser needs, once and not in every child."""
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(Path(folder, "warm.db"))
        run(storage, optimiser, 5)
        storage.engine.dispose()


def serve() -> None:
    warm: set[str] = set()
    for line in sys.stdin:
        job = json.loads(line)
        if job["optimiser"] not in warm:
            warm_up(job["optimiser"])
            warm.add(job["optimiser"])
        report = Path(job["storage"]).with_suffix(".report")
        child = os.fork()
        if not child:
            storage = open_storage(job["storage"], kind=OtherVersion if job["slow"] else QuickStorage)
            count(storage, job["deadly"], job["moment"], report)
            run(storage, job["optimiser"], job["trials"])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        print(json.dumps({"signal": died, **json.loads(report.read_text())}), flush=True)
