"""One process suggests, the others take: as many as the budget has, and nobody waits for a proposer that died."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from bayes_merger.search import build_space, samplers
from bayes_merger.search.space.design import design
from bayes_merger.search.study.alive import at_work
from bayes_merger.search.study.checked import CheckedStudy
from bayes_merger.search.study.lock import proposer_lock
from bayes_merger.search.study.proposer import Proposer
from bayes_merger.search.study.queue import suggestions
from bayes_merger.search.study.storage import open_storage
from bayes_merger.search.study.study import create_study, finished, load_study
from bayes_merger.search.study.workers import Worker

SPACE = build_space(("BASE", "IN00", "M00"), {"alpha": (0.0, 1.0)})


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study.db") if request.param == "sqlite" else request.getfixturevalue("postgres")


def new_study(where: str, rows: int = 0) -> Study:
    sampler = samplers.random(SPACE.distributions(), 5)
    name = f"s{secrets.token_hex(4)}"
    return create_study(open_storage(where), name, sampler, space=SPACE, fingerprint={}, design=design(SPACE, rows, 5))


def again(study: Study, where: str) -> CheckedStudy:
    """The same study, as a worker that does not read its trials has it."""
    sampler = samplers.random(SPACE.distributions(), 5)
    return load_study(open_storage(where), study.study_name, sampler, whole=False)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_one_suggestion_waits_and_the_budget_is_exact(where: str) -> None:
    study = new_study(where)
    told = []
    proposer = Proposer(study, SPACE, 3, lambda: told.append(finished(study)))
    assert [proposer.look(), proposer.look()] == [True, False]
    with Worker(again(study, where), SPACE) as worker:
        for _ in range(3):
            trial = worker.claim(3)
            assert trial is not None
            proposer.look()
            assert len(states(study)) <= 3
            worker.tell(trial, 1.0)
        assert worker.claim(3) is None
        assert worker.done == 3
        assert not worker.has_proposed
    assert not proposer.look()
    assert states(study) == ["COMPLETE"] * 3
    assert told == [0, 1, 2, 3]


def test_more_wait_where_none_is_left_each_time(where: str) -> None:
    study = new_study(where, rows=6)
    proposer = Proposer(study, SPACE, 100)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(again(study, where), SPACE)) for _ in range(6)]
        for worker in workers:
            assert worker.claim(100) is not None
        assert proposer.look()
        assert states(study).count("WAITING") == 2
        assert not proposer.look()  # none was taken
        assert at_work(study) == 6


def test_who_only_takes_reads_no_trials(where: str) -> None:
    study = new_study(where, rows=1)
    study.add_trial(optuna.create_trial(value=float("inf")))  # not what a run writes
    taker = again(study, where)
    with Worker(taker, SPACE) as worker:
        trial = worker.claim(9)
        assert trial is not None
        worker.tell(trial, 1.0)
    assert taker.strangers == 0
    assert len(taker.get_trials(deepcopy=False)) == 1
    assert taker.strangers == 1


def test_while_one_proposes_others_wait_and_when_it_is_gone_they_do_it_themselves(where: str) -> None:
    study = new_study(where)
    with Worker(again(study, where), SPACE) as worker:
        with proposer_lock(study) as mine:
            assert mine is not None
            assert worker.claim(2) is None
        trial = worker.claim(2)
        assert trial is not None
        assert worker.has_proposed
        worker.tell(trial, 1.0)


def test_a_proposer_killed_over_its_work_leaves_nothing_and_is_replaced(where: str) -> None:
    study = new_study(where)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with proposer_lock(again(study, where)):
            os.write(writing, b"x")
            time.sleep(600)
    os.read(reading, 1)
    with proposer_lock(study) as mine:
        assert mine is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    over = threading.Event()
    thread = threading.Thread(target=Proposer(study, SPACE, 4, lambda: None).serve, args=(over,))
    thread.start()
    with Worker(again(study, where), SPACE) as worker:
        while worker.done < 4:
            if (trial := worker.claim(4)) is not None:
                worker.tell(trial, 1.0)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert states(study) == ["COMPLETE"] * 4


def test_suggestions_made_at_once_keep_clear_of_each_other(tmp_path: Path) -> None:
    study = new_study(str(tmp_path / "s.db"), rows=10)
    study.sampler = samplers.structured(SPACE.distributions(), 5)
    with Worker(study, SPACE) as worker:
        for number in range(10):
            trial = worker.claim(10)
            assert trial is not None
            worker.tell(trial, float(number % 4))
    made = list(suggestions(study, SPACE, 4))
    points = [tuple(trial.params.values()) for trial in made]
    assert len(set(points)) == 4
    assert {trial.state for trial in made} == {TrialState.WAITING}
    assert len(study.get_trials(deepcopy=False)) == 10  # none of them is stored
