"""Several workers and forks, as a user has them: real processes on real files, killed at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import PASSWORD
from tests.processes import Process
from tests.user_folder import command, make_workplace, start

Arguments = tuple[str, ...]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path) -> Path:
    folder = make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)
    shutil.copy(tiny_a, folder / "a.safetensors")
    shutil.copy(tiny_b, folder / "b.safetensors")
    return folder


RUN: Arguments = ("run", "experiment=tiny", "model_a=a.safetensors", "model_b=b.safetensors", "final.images=0")


def shown(workplace: Path, name: str) -> dict[str, Any]:
    result = command(workplace, "show", name, "--json")
    assert result.returncode == 0, result.stderr
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def check_whole(workplace: Path, name: str, total: int) -> None:
    """So many trials are finished, each other merge once, and nothing is left over."""
    data = shown(workplace, name)
    trials = data["trials_list"]
    done = [row for row in trials if row["state"] == "complete"]
    assert data["state"] == "done"
    assert len(done) == total
    assert len({json.dumps(row["weights"]) for row in done}) == total
    assert {row["state"] for row in trials} <= {"complete", "fail"}
    assert {row.get("reason") for row in trials if row["state"] == "fail"} <= {"interrupted"}
    for row in done:
        assert all((workplace / "runs" / name / image).is_file() for image in row["images"])


def until(process: Process, *signs: str) -> list[str]:
    """The lines that a process prints until one holds one of these."""
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if any(sign in line for sign in signs):
            break
    return lines


def children(parent: int) -> list[int]:
    """The processes that a process has started and that still live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def have_ended(processes: Sequence[int]) -> bool:
    return not any(Path(f"/proc/{number}").exists() for number in processes)


def holds(database: Path, query: str, count: int) -> bool:
    """Whether a study's file, once it and its tables exist, holds at least so many rows."""
    if count == 0 or not database.exists():
        return count == 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection, suppress(sqlite3.Error):
        return bool(connection.execute(f"SELECT count(*) FROM {query}").fetchone()[0] >= count)
    return False


@pytest.fixture
def stopping() -> Iterator[list[Process]]:
    """Processes that must not outlive the test."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_of_two_workers_one_is_killed_and_the_other_goes_on(workplace: Path, stopping: list[Process]) -> None:
    process = start(workplace, *RUN, "name=two", "workers=2", "n_iters=2")
    stopping.append(process)
    until(process, "  1/6  ")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("died (killed by SIGKILL)") == 1
    assert "1 of 2 workers go on" in out
    check_whole(workplace, "two", 6)


@pytest.mark.slow
def test_the_launcher_is_killed_and_its_workers_leave_with_it(workplace: Path, stopping: list[Process]) -> None:
    process = start(workplace, *RUN, "name=orphans", "workers=2", "n_iters=26")
    stopping.append(process)
    until(process, "  1/30  ")
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    wait_until(lambda: have_ended(workers))
    result = command(workplace, "resume", "orphans")
    assert result.returncode == 0, result.stderr
    check_whole(workplace, "orphans", 30)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_is_passed_on_to_the_workers(workplace: Path, stopping: list[Process], times: int) -> None:
    name = f"stopped{times}"
    process = start(workplace, *RUN, f"name={name}", "workers=2", "n_iters=26")
    stopping.append(process)
    until(process, "  1/30  ")
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    if times == 2:
        until(process, "Ctrl-C again stops at once")
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert f"bayes-merger resume {name}" in err
    assert not any(Path(f"/proc/{number}").exists() for number in workers)
    states = [row["state"] for row in shown(workplace, name)["trials_list"]]
    assert "running" not in states
    result = command(workplace, "resume", name, "n_iters=8")
    assert result.returncode == 0, result.stderr
    check_whole(workplace, name, 12)


@pytest.mark.slow
def test_when_all_workers_die_the_run_says_so(workplace: Path, stopping: list[Process]) -> None:
    process = start(workplace, *RUN, "name=alldead", "workers=2", "n_iters=26")
    stopping.append(process)
    until(process, "  1/30  ")
    for number in children(process.pid):
        os.kill(number, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "all workers ended early" in err
    assert "bayes-merger resume alldead" in err


@pytest.mark.slow
def test_a_worker_joins_by_hand_and_the_run_waits_for_it(workplace: Path, stopping: list[Process]) -> None:
    # so many that the run is not over before the worker is there
    process = start(workplace, *RUN, "name=joined", "n_iters=116")
    stopping.append(process)
    first = until(process, "  1/120  ")
    result = command(workplace, "worker", "joined")
    assert result.returncode == 0, result.stderr
    assert "nothing left to draw" in result.stdout
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert result.stdout.count(" points (") >= 1
    assert "".join([*first, out, result.stdout]).count(" points (") == 120
    check_whole(workplace, "joined", 120)


@pytest.mark.slow
def test_a_worker_on_another_machine_shares_a_study_in_postgresql(
    workplace: Path,
    tmp_path: Path,
    tiny_sd1_config: Path,
    postgres: str,
    stopping: list[Process],
) -> None:
    elsewhere = make_workplace(tmp_path / "elsewhere", tiny_sd1_config)
    for name in "ab":
        shutil.copy(workplace / f"{name}.safetensors", elsewhere / f"{name}1.safetensors")
    process = start(workplace, *RUN, "name=shared", "n_iters=116", f"storage={postgres}")
    stopping.append(process)
    until(process, "  1/120  ")
    join = ("worker", "shared", "--storage", postgres)
    helper = start(elsewhere, *join, "model_a=a1.safetensors", "model_b=b1.safetensors")
    stopping.append(helper)
    drawn, complaint = helper.communicate(timeout=600)
    assert helper.returncode == 0, complaint
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert drawn.count(" points (") >= 1
    lost = command(elsewhere, *join)
    assert lost.returncode == 2
    assert "model_a=FILE" in lost.stderr
    other = command(elsewhere, *join, "model_a=b1.safetensors", "model_b=b1.safetensors")
    assert other.returncode == 2
    assert "models.a" in other.stderr
    for folder in (workplace / "runs" / "shared", elsewhere / "runs" / "shared"):
        for path in folder.rglob("*"):
            assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in "".join([out, err, drawn, complaint, lost.stderr, other.stderr])
    assert command(workplace, "show", "shared").stderr.count("PGPASSWORD") == 1
    os.environ["PGPASSWORD"] = PASSWORD
    try:
        data = shown(workplace, "shared")
        assert len([row for row in data["trials_list"] if row["state"] == "complete"]) == 120
        assert command(workplace, "merge", "shared", "--out", "shared.safetensors").returncode == 0
        assert command(elsewhere, "show", "shared").returncode == 0
        again = command(workplace, "resume", "shared", "n_iters=117")
        assert again.returncode == 0, again.stderr
    finally:
        del os.environ["PGPASSWORD"]


@pytest.fixture(scope="module")
def parent(workplace: Path) -> str:
    """A finished study of six trials."""
    result = command(workplace, *RUN, "name=parent", "n_iters=2")
    assert result.returncode == 0, result.stderr
    return "parent"


@pytest.mark.slow
def test_a_fork_that_is_killed_can_be_made_again(workplace: Path, parent: str, stopping: list[Process]) -> None:
    database = workplace / "runs" / "reborn" / "study.db"
    for trials in range(6):  # killed before the first is stored, and after each
        process = start(workplace, "fork", parent, "reborn", "n_iters=2")
        stopping.append(process)
        until(process, "taken over")
        wait_until(partial(holds, database, "trials", trials))
        process.kill()
        process.wait()
        if "reborn" in command(workplace, "show").stdout:
            break
    done = command(workplace, "resume", "reborn")
    if done.returncode:  # not yet born
        done = command(workplace, "fork", parent, "reborn", "n_iters=2")
    assert done.returncode == 0, done.stderr
    check_whole(workplace, "reborn", 8)


@pytest.mark.slow
def test_a_run_killed_in_its_final_round_goes_on_there(workplace: Path, stopping: list[Process]) -> None:
    arguments = [argument for argument in RUN if not argument.startswith("final")]
    process = start(workplace, *arguments, "name=last", "n_iters=5", "final.images=6")
    stopping.append(process)
    until(process, "  9/9  ")
    database = workplace / "runs" / "last" / "study.db"
    wait_until(partial(holds, database, "study_user_attributes WHERE key LIKE 'drawn:%'", 1))
    process.kill()
    process.wait()
    before = shown(workplace, "last")["trials_list"]
    result = command(workplace, "resume", "last")
    assert result.returncode == 0, result.stderr
    assert " points (" not in result.stdout
    after = shown(workplace, "last")
    assert after["trials_list"] == before
    assert before[-1]["phase"] == "predicted"
    assert before[-1]["trial"] in [one["trial"] for one in after["final"]["rescored"]]
    assert [row["name"] for row in after["final"]["rows"]] == ["best merge", "model A", "model B", "even mix"]
