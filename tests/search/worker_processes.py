"""Workers for tests/search/test_workers.py: one warm process whose children work on a study, and may die.

One JSON line in: ``{"storage": where, "name": study, "workers": n, "total": n, "deaths": {"0": 2}}`` (worker 0 is to
be killed in its second trial); one out: for every worker the values it drew, in order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bayes_merger.search import build_space, samplers
from bayes_merger.search.study.study import finished, load_study, open_storage
from bayes_merger.search.study.workers import Worker

SPACE = build_space(("BASE", "IN00", "M00"), {"alpha": (0.0, 1.0)})


def score(values: dict[str, float]) -> float:
    return -sum((value - 0.4) ** 2 for value in values.values())


def work(job: dict[str, Any], number: int, files: list[Path]) -> None:
    """What a worker does, and a line for everything it draws. Nobody begins before those who are to be killed have."""
    sampler = samplers.random(SPACE.distributions(), 5)
    study = load_study(open_storage(job["storage"]), job["name"], sampler)
    deaths = job.get("deaths", {})
    death = deaths.get(str(number))
    while death is None and not all(files[int(doomed)].stat().st_size for doomed in deaths):
        time.sleep(0.005)
    count = 0
    with Worker(study, SPACE, name=str(number)) as worker, files[number].open("a") as file:
        while finished(study) < job["total"]:
            trial = worker.claim(job["total"])
            if trial is None:
                time.sleep(0.02)
                continue
            count += 1
            file.write(json.dumps(trial.params) + "\n")
            file.flush()
            if count == death:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(random.random() * 0.01)
            worker.tell(trial, score(trial.params), {"scores": [number]})


def serve() -> None:
    with tempfile.TemporaryDirectory() as folder:
        open_storage(Path(folder, "warm.db")).engine.dispose()  # imports what every child needs, once
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, str(number)) for number in range(job["workers"])]
            children = []
            for file in files:
                file.touch()
            for number in range(job["workers"]):
                child = os.fork()
                if not child:
                    work(job, number, files)
                    os._exit(0)
                children.append(child)
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            drawn = [[json.loads(text) for text in file.read_text().splitlines()] for file in files]
        print(json.dumps({"codes": codes, "drawn": drawn}), flush=True)
