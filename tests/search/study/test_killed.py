"""kill -9 at any moment: no finished trial is lost, and the next suggestion is the one that would have come."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search import samplers
from bayes_merger.search.study.history import origin
from bayes_merger.search.study.study import ask, failed, finished, load_study, open_storage, open_study, tell
from tests.processes import Process
from tests.search import killed_study
from tests.search.killed_study import SPACE
from tests.search.optimiser_configs import EXTRA, NAMES

QUICKEST = ("structured", "random")


def _marked(name: str, *marks: Any) -> Any:
    lacking = name in EXTRA and find_spec(EXTRA[name]) is None
    return pytest.param(name, marks=(*marks, pytest.mark.skipif(lacking, reason=f"{name} is not installed")))


ALL = [_marked(name) for name in NAMES]
SOME = [_marked(name, *([] if name in QUICKEST else [pytest.mark.slow])) for name in NAMES]
ROOT = Path(__file__).parents[3]

Runner = Callable[..., dict[str, int]]
Trace = list[tuple[str, dict[str, float], float | None, dict[str, Any]]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process, unlike a lost power line, needs no disk to wait for."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def mortal(tables: Path) -> Iterator[Runner]:
    """Runs a study in a process that may be killed; see tests/search/mortal.py."""
    server = Process(killed_study.serve, stdin=subprocess.PIPE)
    questions, answers = server.stdin, server.stdout

    def run(
        storage: Path, optimiser: str, trials: int, deadly: int = 0, moment: str = "after", *, slow: bool = False
    ) -> dict[str, int]:
        if not storage.exists():
            shutil.copy(tables, storage)
        job = {"storage": str(storage), "optimiser": optimiser, "trials": trials, "deadly": deadly, "moment": moment}
        questions.write(json.dumps(job | {"slow": slow}) + "\n")
        questions.flush()
        answer: dict[str, int] = json.loads(answers.readline())
        return answer

    yield run
    questions.close()
    server.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def copied(storage: Path, to: Path) -> Path:
    """A study's file with what SQLite has not yet moved into it."""
    for suffix in ("", "-wal"):
        if storage.with_name(storage.name + suffix).exists():
            shutil.copy(storage.with_name(storage.name + suffix), to.with_name(to.name + suffix))
    return to


def trials_of(storage: Path) -> list[FrozenTrial]:
    opened = open_storage(storage)
    try:
        return load_study(opened, "s").get_trials(deepcopy=False)
    finally:
        opened.engine.dispose()


def trace(storage: Path) -> Trace:
    """What the trials that came to an end of their own say, in the order of their first attempts."""
    kept = [t for t in trials_of(storage) if t.user_attrs.get("reason") != "interrupted"]
    own = ("scores", "reason", "phase", "row")
    return [
        (t.state.name, t.params, t.value, {key: t.user_attrs[key] for key in own if key in t.user_attrs})
        for t in sorted(kept, key=lambda t: (origin(t), t.number))
    ]


def check_deaths(
    mortal: Runner, folder: Path, moment: str, step: int, optimiser: str = "random", slow: bool = False
) -> None:
    """Whenever a process dies, the next one makes of the study what it would have become."""
    whole = folder / "whole.db"
    answer = mortal(whole, optimiser, 6, slow=slow)
    assert answer["signal"] == 0
    expected = trace(whole)
    assert sum(state == "COMPLETE" for state, *_ in expected) == 6
    for deadly in range(1, answer[moment] + 1, step):
        storage = folder / f"{deadly}.db"
        assert mortal(storage, optimiser, 6, deadly, moment, slow=slow)["signal"] == signal.SIGKILL
        assert mortal(storage, optimiser, 6, slow=slow)["signal"] == 0
        assert trace(storage) == expected, f"killed at {moment} {deadly}"


@pytest.mark.parametrize(("moment", "step"), [("before", 47), ("after", 53), ("statement", 251)])
def test_a_death_at_any_transaction_of_a_run_and_in_it_changes_nothing(
    mortal: Runner, folder: Path, moment: str, step: int
) -> None:
    check_deaths(mortal, folder, moment, step)
    assert sum(state == "FAIL" for state, *_ in trace(folder / "whole.db")) >= 1


@pytest.mark.parametrize("step", [pytest.param(89, id="some"), pytest.param(1, id="each", marks=pytest.mark.slow)])
def test_nor_does_one_where_optuna_s_own_api_writes(mortal: Runner, folder: Path, step: int) -> None:
    check_deaths(mortal, folder, "after", step, slow=True)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ALL)
@pytest.mark.parametrize("moment", ["before", "after", "statement"])
def test_a_death_at_every_single_moment_changes_nothing(
    mortal: Runner, folder: Path, moment: str, optimiser: str
) -> None:
    check_deaths(mortal, folder, moment, 1 if optimiser == "random" else 31 if moment == "statement" else 7, optimiser)


@pytest.mark.parametrize("optimiser", SOME)
def test_a_death_at_every_hour_of_the_search_changes_no_optimisers_mind(
    mortal: Runner, folder: Path, optimiser: str
) -> None:
    whole, torn = folder / "whole.db", folder / "torn.db"
    mortal(whole, optimiser, 7)
    deaths = 0
    while mortal(torn, optimiser, 7, 22)["signal"] == signal.SIGKILL:
        deaths += 1
    assert deaths >= 2
    assert trace(torn) == trace(whole)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "seconds", [pytest.param(range(2, 12, 4), id="some"), pytest.param(range(1, 28), id="each", marks=pytest.mark.slow)]
)
def test_a_death_during_heal_itself_is_healed(mortal: Runner, folder: Path, moment: str, seconds: range) -> None:
    whole, torn = folder / "whole.db", folder / "torn.db"
    commits = mortal(whole, "random", 6)["after"]
    mortal(torn, "random", 6, commits - 2)  # in the middle of a trial
    expected = trace(whole)
    for second in seconds:
        storage = copied(torn, folder / f"{second}.db")
        if mortal(storage, "random", 6, second, moment)["signal"] == 0:
            assert second > 6  # there is no more to healing it and finishing its last trial
            break
        assert mortal(storage, "random", 6)["signal"] == 0
        assert trace(storage) == expected, f"killed {moment} commit {second} of healing"


def test_a_run_killed_at_every_trial_still_comes_to_its_end(mortal: Runner, folder: Path) -> None:
    storage = folder / "s.db"
    finished: set[tuple[str, float]] = set()
    for _ in range(60):
        answer = mortal(storage, "random", 5, 26)
        now = {(str(t.params), t.value) for t in trials_of(storage) if t.state == TrialState.COMPLETE and t.value}
        assert finished <= now, "a finished trial was lost"
        finished = now
        if answer["signal"] == 0:
            break
    assert answer["signal"] == 0
    assert len(finished) == 5


def test_an_interrupted_trial_is_failed_with_its_reason_and_not_counted_as_a_failure(
    mortal: Runner, folder: Path
) -> None:
    commits = mortal(folder / "whole.db", "random", 6)["after"]
    for back in range(1, 6):  # one of the last transactions leaves a trial that is being drawn
        storage = folder / f"{back}.db"
        mortal(storage, "random", 6, commits - back)
        mortal(storage, "random", 6)
        interrupted = [t for t in trials_of(storage) if t.user_attrs.get("reason") == "interrupted"]
        if interrupted:
            break
    assert [t.state for t in interrupted] == [TrialState.FAIL]
    again = [t for t in trials_of(storage) if t.user_attrs.get("retry_of") == interrupted[0].number]
    assert [t.params for t in again] == [interrupted[0].params]
    assert failed(load_study(open_storage(storage), "s")) == failed(load_study(open_storage(folder / "whole.db"), "s"))


@pytest.mark.slow
@pytest.mark.parametrize("eighths", range(8))
def test_a_stranger_may_kill_the_process_whenever_it_likes(mortal: Runner, folder: Path, eighths: int) -> None:
    whole, torn, report = folder / "whole.db", folder / "torn.db", folder / "torn.report"
    statements = mortal(whole, "bayes", 12)["statement"]
    code = (
        "import sys; from tests.search.killed_study import *; storage = open_storage(sys.argv[1]);"
        "count(storage, 0, '', Path(sys.argv[2])); run(storage, 'bayes', 12)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, torn, report], cwd=ROOT)

    def counted() -> int:
        with suppress(OSError, ValueError):  # not there yet, or being written
            return int(json.loads(report.read_text())["statement"])
        return 0

    wait_until(lambda: counted() > statements * eighths // 8)
    process.kill()
    process.wait()
    assert mortal(torn, "bayes", 12)["signal"] == 0
    assert trace(torn) == trace(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", range(0, 240, 10))
def test_a_file_whose_tables_were_being_made_can_be_opened_again(folder: Path, kilobytes: int) -> None:
    storage = folder / "s.db"
    code = "import sys; from bayes_merger.search.study.storage import *; open_storage(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, str(storage)], cwd=ROOT)

    def written() -> int:
        return sum(file.stat().st_size for file in folder.glob("s.db*"))

    wait_until(lambda: written() > kilobytes * 1000 or process.poll() is not None)
    process.kill()
    process.wait()
    sampler = samplers.random(SPACE.distributions(), 0)
    study = open_study(open_storage(storage), "s", sampler, space=SPACE, fingerprint={}, design=[])
    tell(study, ask(study, SPACE), 1.0)
    assert finished(study) == 1
