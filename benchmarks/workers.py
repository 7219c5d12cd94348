"""Many workers on one study: trials per second, statements, waiting, and what kill -9 costs; beside plain Optuna.

    python benchmarks/workers.py            # benchmarks/results/workers.md; ten minutes on two quiet cores
    python benchmarks/workers.py --quick    # seconds, to see that it works

Simulated workers (``worker_crowd.py``): each is a process that takes and tells as a run's worker does, with a run's
attributes, and draws nothing in between, so all that is measured is the study itself. The server is PostgreSQL as
Debian sets it up, on the same machine. A proposer keeps suggestions (`random`, 26 weights) waiting, as `workers=N`
does; where it is killed, one stands by that looks every two seconds. Optuna's own processes use `ask` and `tell` of its
RDBStorage with RandomSampler and the same attributes, in the same run.

Statements are those that SQLAlchemy hands to the driver, vain looks, heartbeats and the proposer's included; what
begins and ends transactions and connections (BEGIN, COMMIT, the pool's ping) is not among them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker_crowd import Log, beforehand, plain, propose, start, work

from bayes_merger.search.study.storage import open_storage
from bayes_merger.search.study.study import load_study
from tests.postgres import server

RESULTS = Path(__file__).parent / "results" / "workers.md"
ENDLESS = 10**6


def server_cpu(postmaster: int) -> float:
    """Seconds of CPU that a server has used, in processes that have ended and in its first one."""
    fields = Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def postmaster_of(address: str) -> int:
    """The server's first process."""
    with open_storage(address).engine.connect() as connection:
        folder = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    return int(Path(folder, "postmaster.pid").read_text().split()[0])


@dataclass
class Row:
    """One line of the table."""

    who: str
    finished: int
    workers: int
    rate: float
    client: float
    proposer: float
    vain: float
    server: float
    statements: float
    proposer_statements: float
    take: list[float]
    tell: list[float]
    joining: float
    memory: float


def measure(address: str, who: str, finished: int, workers: int, seconds: float) -> Row:
    """So many workers for so many seconds."""
    name = f"{who}-{finished}-{workers}"
    beforehand(address, name, finished)
    postmaster, folder = postmaster_of(address), Path(tempfile.mkdtemp())
    ready, go = Path(tempfile.mkdtemp()), folder.with_suffix(".go")
    over = folder.with_suffix(".over").exists

    def act(log: Log, number: int) -> None:
        def begin() -> None:
            log.begin(ready / str(number), go)

        if who == "optuna":
            plain(address, name, over, log, begin)
        else:
            work(address, name, ENDLESS, over, log, begin)

    helper = 0 if who == "optuna" else start(lambda log: propose(address, name, ENDLESS, log), folder / "proposer")
    children = [start(partial(act, number=number), folder / f"{number}") for number in range(workers)]
    while len(list(ready.iterdir())) < workers or (helper and not count(address, name, "WAITING")):
        time.sleep(0.1)  # the proposer reads the history once: that is "joining" too
    before = server_cpu(postmaster)
    go.touch()
    while count(address, name) < finished + 2 * workers:  # until all are known to the proposer
        time.sleep(0.1)
    at, began = count(address, name), time.monotonic()
    time.sleep(seconds)
    rate = (count(address, name) - at) / (time.monotonic() - began)
    folder.with_suffix(".over").touch()
    for child in children:
        os.waitpid(child, 0)
    if helper:
        os.kill(helper, signal.SIGTERM)
        os.waitpid(helper, 0)
    time.sleep(0.5)
    logs = [json.loads(file.read_text()) for file in sorted(folder.iterdir())]
    done = max(1, sum(len(log["tell"]) for log in logs))
    own = [log for log in logs if log["tell"]]
    return Row(
        who, finished, workers, rate,
        client=sum(log["cpu"] for log in logs) / done,
        proposer=sum(log["cpu"] for log in logs if not log["tell"]) / done,
        vain=sum(log["vain"] for log in logs) / done,
        server=(server_cpu(postmaster) - before) / done,
        statements=sum(log["statements"] for log in logs) / done,
        proposer_statements=sum(log["statements"] for log in logs if not log["tell"]) / done,
        take=[took for log in logs for took in log["take"]],
        tell=[took for log in logs for took in log["tell"]],
        joining=float(np.median([log["joining"] for log in own or logs])),
        memory=float(np.median([log["megabytes"] for log in own or logs])),
    )  # fmt: skip


def count(address: str, name: str, state: str = "COMPLETE") -> int:
    """Finished trials of a study, or those in another state."""
    storage = open_storage(address, create=False)
    with storage.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = %s AND state = %s",
            (name, state),
        ).scalar_one()
    storage.engine.dispose()
    return int(found)


def killed(address: str, finished: int, workers: int, extra: int, pause: float) -> dict[str, Any]:
    """A quarter of the workers is killed each minute, and the proposer once; the budget is to be exact."""
    name, total, folder = f"killed-{finished}", finished + extra, Path(tempfile.mkdtemp())
    beforehand(address, name, finished)
    fresh = iter(range(10**6))

    def worker() -> int:
        number = next(fresh)
        return start(
            lambda log: work(address, name, total, lambda: False, log, told=folder / f"{number}.told"),
            folder / f"{number}",
        )

    def proposer() -> int:
        return start(lambda log: propose(address, name, total, log), folder / f"p{next(fresh)}")

    began, rng = time.monotonic(), random.Random(3)
    proposers = [proposer(), proposer()]  # the second waits for the first to die
    children = [worker() for _ in range(workers)]
    deaths, left, waited = 0, True, 0.0
    while count(address, name) < total:
        time.sleep(pause)
        victim = rng.randrange(len(children))
        os.kill(children[victim], signal.SIGKILL)
        os.waitpid(children[victim], 0)
        children[victim] = worker()
        deaths += 1
        if left and count(address, name) > finished + extra // 3:
            left, at = False, count(address, name)
            os.kill(proposers[0], signal.SIGKILL)
            waited = -time.monotonic()
            while count(address, name) < min(at + 2 * workers, total):
                time.sleep(0.1)
            waited += time.monotonic()
    seconds = time.monotonic() - began
    for child in children:
        os.waitpid(child, 0)
    os.kill(proposers[1], signal.SIGTERM)
    for child in proposers:
        os.waitpid(child, 0)
    study = load_study(open_storage(address, create=False), name)
    everything = study.get_trials(deepcopy=False)
    done = [trial for trial in everything if trial.state == TrialState.COMPLETE]
    values = {trial.number: trial.value for trial in done}
    told = [line.split() for file in folder.glob("*.told") for line in file.read_text().splitlines()]
    return {
        "workers": workers, "seconds": round(seconds), "killed": deaths, "asked": total, "finished": len(done),
        "twice": len(done) - len({tuple(trial.params.values()) for trial in done}),
        "lost": sum(values.get(int(number)) != float(value) for number, value in told),
        "left": sum(not trial.state.is_finished() for trial in everything),
        "drawn again": sum(trial.user_attrs.get("reason") == "interrupted" for trial in everything),
        "takeover": round(waited, 1),
    }  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | finished | workers | trials/s | client CPU | of it the proposer's | server CPU | statements "
        "| of them the proposer's | in vain "
        "| take: median / 95 % | tell: median / 95 % | joining | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        take, tell = (1000 * np.percentile(one or [0.0], [50, 95]) for one in (row.take, row.tell))
        lines.append(
            f"| {row.who} | {row.finished} | {row.workers} | {row.rate:.1f} | {1000 * row.client:.0f} ms "
            f"| {1000 * row.proposer:.0f} ms | {1000 * row.server:.1f} ms | {row.statements:.1f} "
            f"| {row.proposer_statements:.1f} | {row.vain:.1f} "
            f"| {take[0]:.0f} / {take[1]:.0f} ms "
            f"| {tell[0]:.0f} / {tell[1]:.0f} ms | {row.joining:.2f} s | {row.memory:.0f} MB |"
        )
    return "\n".join(lines)


def ratios(rows: Sequence[Row]) -> str:
    """Ours against Optuna's, where both ran."""
    ours = {(row.finished, row.workers): row for row in rows if row.who == "ours"}
    lines = ["| finished | workers | trials/s | client CPU per trial | statements per trial |", "|---|---|---|---|---|"]
    for row in rows:
        own = ours.get((row.finished, row.workers))
        if row.who == "optuna" and own:
            lines.append(
                f"| {row.finished} | {row.workers} | {own.rate / max(row.rate, 1e-9):.1f} x "
                f"| {own.client / row.client:.2f} x | {own.statements / row.statements:.2f} x |"
            )
    return "\n".join(lines)


def report(rows: Sequence[Row], deaths: Sequence[dict[str, Any]], load: str) -> str:
    """The page of results."""
    killed = [f"| {' | '.join(str(value) for value in one.values())} |" for one in deaths]
    head = list(deaths[0]) if deaths else []
    return f"""# Many workers on one study

Written by `benchmarks/workers.py`, which says what was done. {os.cpu_count()} CPU cores for the workers, the
proposer and the server together, shared with other programs ({load}): wall times (trials/s, take, tell) say little
beyond this machine; CPU seconds and statements do. All of a row's processes are counted, the proposer's too, and
divided by its trials. Statements are counted without those that begin and end transactions and
connections. "In vain" is how often a worker looked and found nothing, per trial; "joining" is a worker's CPU
time from its start to its first claim; "memory" is what it has of its own at the end, beside what it shares with the
process that it was forked from.

{table(rows)}

Ours against Optuna's `RDBStorage`, `ask` and `tell`, in the same run:

{ratios(rows)}

Killed with SIGKILL, a quarter of the workers each minute, each followed by a fresh one, and the proposer once after a
third of the budget. "twice": merges that were scored twice; "lost": scores that a worker was told are stored and that
are not; "left": trials that still wait or run; "takeover": seconds from the proposer's death until two trials per
worker were finished.

| {" | ".join(head)} |
|{"---|" * len(head)}
{chr(10).join(killed)}
"""


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds: a few workers, few trials")
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 16, 64))
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement, once all have joined")
    parser.add_argument(
        "--killed", type=int, nargs=2, default=(64, 600), help="workers, and trials, where some are killed"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sizes, crowds, seconds = (
        ((0, 50), (1, 4), 3.0) if options.quick else ((0, 5000), tuple(options.workers), options.seconds)
    )
    load = f"load average at the start {os.getloadavg()[0]:.1f}"
    rows: list[Row] = []
    deaths: list[dict[str, Any]] = []

    def write() -> None:
        options.out.write_text(report(rows, deaths, load), encoding="utf-8")

    with server("") as address:
        for finished in sizes:
            for workers in crowds:
                rows.append(measure(address, "ours", finished, workers, seconds))
                if workers in ((1, 16) if finished == 0 else (1,)):  # Optuna's workers read the whole history first
                    rows.append(measure(address, "optuna", finished, workers, seconds))
                print(table(rows[-2:]), flush=True)
                write()  # what is measured so far, should it be cut short
            crowd, extra = (4, 30) if options.quick else options.killed
            deaths.append(killed(address, finished, crowd, extra, 5.0 if options.quick else 240 / crowd))
            print(deaths[-1], flush=True)
            write()


if __name__ == "__main__":
    main()
