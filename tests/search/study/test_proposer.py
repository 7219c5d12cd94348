"""One process suggests, the others take: as many as the budget has, and of those who stand by one takes its place."""

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
import sqlalchemy
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search import build_space, samplers
from bayes_merger.search.space.design import design
from bayes_merger.search.study.alive import at_work
from bayes_merger.search.study.checked import CheckedStudy, strangers
from bayes_merger.search.study.lock import proposer_lock
from bayes_merger.search.study.proposer import Proposer
from bayes_merger.search.study.queue import suggestions
from bayes_merger.search.study.storage import backend, open_storage
from bayes_merger.search.study.study import create_study, finished, load_study
from bayes_merger.search.study.through_optuna import OptunaTransaction
from bayes_merger.search.study.transaction import transaction
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


@pytest.mark.sampled(1)
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


def waiting(study: Study) -> int:
    return states(study).count("WAITING")


def claimed(worker: Worker, total: int = 100) -> FrozenTrial:
    trial = worker.claim(total)
    assert trial is not None
    return trial


def test_one_suggestion_waits_for_each_worker_that_draws_nothing_and_always_one(where: str) -> None:
    study = new_study(where, rows=6)
    proposer = Proposer(study, SPACE, 100)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(again(study, where), SPACE)) for _ in range(6)]
        trials = [claimed(worker) for worker in workers]
        assert at_work(study) == 6
        assert [proposer.look(), waiting(study), proposer.look()] == [True, 1, False]  # all six draw
        for worker, trial in zip(workers[:4], trials[:4], strict=True):
            worker.tell(trial, 1.0)
        assert [proposer.look(), waiting(study), proposer.look()] == [True, 4, False]
        for worker in workers[:4]:
            claimed(worker)
        assert [waiting(study), proposer.look(), waiting(study)] == [0, True, 1]


@pytest.mark.sampled(1)
def test_for_those_who_are_done_before_the_next_look_as_many_wait_as_they_took(where: str) -> None:
    study = new_study(where, rows=7)
    proposer = Proposer(study, SPACE, 100)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(again(study, where), SPACE)) for _ in range(3)]
        trials = [claimed(worker) for worker in workers]
        assert [proposer.look(), waiting(study)] == [False, 4]
        for worker, trial in zip(workers, trials, strict=True):
            worker.tell(trial, 1.0)
            trial = claimed(worker)
        worker.tell(trial, 1.0)
        claimed(worker)
        assert [waiting(study), proposer.look(), waiting(study)] == [0, True, 4]  # three draw, and four were taken
        assert not proposer.look()


@pytest.mark.sampled(1)
def test_however_long_workers_slept_between_two_looks_as_much_waits_for_them(where: str) -> None:
    study = new_study(where, rows=4)
    proposer = Proposer(study, SPACE, 100)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(again(study, where), SPACE)) for _ in range(4)]
        for worker in workers:
            worker.tell(claimed(worker), 1.0)
        for _ in range(20):
            proposer.look()
        assert waiting(study) == 4
        for _ in range(5):  # the others sleep on
            workers[0].tell(claimed(workers[0]), 1.0)
            proposer.look()
        assert waiting(study) == 4


@pytest.mark.sampled(1)
def test_nothing_waits_for_those_who_gave_no_sign_of_life_for_a_minute(where: str) -> None:
    study = new_study(where, rows=4)
    proposer = Proposer(study, SPACE, 100)
    for _ in range(4):
        with Worker(again(study, where), SPACE) as worker:
            worker.tell(claimed(worker), 1.0)
    with backend(study).engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'"))
    assert [proposer.look(), waiting(study), proposer.look()] == [True, 1, False]


def test_through_optuna_s_own_api_as_much_waits(tmp_path: Path) -> None:
    study = new_study(str(tmp_path / "s.db"), rows=3)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(again(study, str(tmp_path / "s.db")), SPACE)) for _ in range(3)]
        trials = [claimed(worker) for worker in workers]
        for worker, trial in zip(workers[:2], trials[:2], strict=True):
            worker.tell(trial, 1.0)
        ids = {worker.id for worker in workers}
        with transaction(study) as queue:
            assert queue.look(for_workers=True).workers == ids
        assert OptunaTransaction(study, backend(study)).look(for_workers=True).workers == ids


@pytest.mark.sampled(1)
def test_who_stands_by_reads_the_trials_and_the_others_wait_for_it(where: str) -> None:
    study, clock = new_study(where, rows=3), Clock()
    stranger(study)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(again(study, where), SPACE, patience=30.0, clock=clock)) for _ in range(3)
        ]
        for worker in workers:
            worker.tell(claimed(worker), 1.0)
        for clock.now in (1001.0, 1015.0, 1029.0):  # the proposer has died
            assert [worker.claim(100) for worker in workers] == [None, None, None]
        Proposer(study, SPACE, 100).look()
        for worker in workers:
            claimed(worker)
        assert [have_read(one) for one in (study, *(worker.study for worker in workers))] == [True, False, False, False]


@pytest.mark.sampled(1)
def test_where_nobody_stands_by_the_first_whose_patience_ends_reads_and_suggests(where: str) -> None:
    study, clock = new_study(where), Clock()
    stranger(study)
    with ExitStack() as stack:
        first, second = [
            stack.enter_context(Worker(again(study, where), SPACE, patience=30.0, clock=clock)) for _ in range(2)
        ]
        assert first.claim(100) is None
        clock.now = 1020.0
        assert second.claim(100) is None
        clock.now = 1030.0
        trial = claimed(first)
        assert second.claim(100) is None
        assert [have_read(first.study), have_read(second.study)] == [True, False]
        first.tell(trial, 1.0)
        claimed(first)  # it knows the history now: no more waiting


class Clock:
    """Says what it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def stranger(study: Study) -> None:
    """A trial that is not what a run writes: who has read the trials knows that there is one."""
    study.add_trial(optuna.create_trial(value=float("inf")))


def have_read(study: Study) -> bool:
    return strangers(study) == 1


@pytest.mark.sampled(1)
def test_who_only_takes_reads_no_trials(where: str) -> None:
    study = new_study(where, rows=1)
    stranger(study)
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
