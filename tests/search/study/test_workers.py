"""Many workers on one study: everything is drawn once, nothing is lost, the budget is exact."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import Superseded, TrialFailed
from bayes_merger.search import samplers
from bayes_merger.search.space.design import design
from bayes_merger.search.study.alive import dead_entries, recover
from bayes_merger.search.study.lock import proposer_lock
from bayes_merger.search.study.queue import queue_again
from bayes_merger.search.study.storage import backend, open_storage
from bayes_merger.search.study.study import create_study, finished, load_study, open_study
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import Worker
from tests.processes import Process
from tests.search import worker_processes
from tests.search.worker_processes import SPACE, score

ROOT = Path(__file__).parents[3]

Hands = Callable[..., dict[str, Any]]


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path, tables: Path) -> str:
    if request.param == "sqlite":
        return str(shutil.copy(tables, tmp_path / "study.db"))
    address: str = request.getfixturevalue("postgres")
    return address


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    """Lets workers loose on a study; see tests/search/hands.py."""
    process = Process(worker_processes.serve, stdin=subprocess.PIPE)
    questions, answers = process.stdin, process.stdout

    def loose(**job: Any) -> dict[str, Any]:
        questions.write(json.dumps(job) + "\n")
        questions.flush()
        answer: dict[str, Any] = json.loads(answers.readline())
        return answer

    yield loose
    questions.close()
    process.wait()


def new_study(where: str, rows: int) -> Study:
    """One with so many queued trials, under a name of its own."""
    queued = design(SPACE, rows, 5)
    sampler = samplers.random(SPACE.distributions(), 5)
    return create_study(
        open_storage(where), f"s{secrets.token_hex(4)}", sampler, space=SPACE, fingerprint={}, design=queued
    )


def again(study: Study, where: str) -> Study:
    """The same study, as another process has it."""
    sampler = samplers.random(SPACE.distributions(), 5)
    return load_study(open_storage(where), study.study_name, sampler)


def key(values: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(values.items()))


def check_each_once(study: Study, drawn: list[list[dict[str, float]]], total: int) -> None:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    assert len(done) == total
    assert len({key(t.params) for t in done}) == total
    assert all(t.value == score(t.params) for t in done)
    assert sorted(key(values) for own in drawn for values in own) == sorted(key(t.params) for t in done)


def check_queue(where: str, hands: Hands, rows: int, workers: int) -> None:
    study = new_study(where, rows)
    answer = hands(storage=where, name=study.study_name, workers=workers, total=rows)
    assert answer["codes"] == [0] * workers
    check_each_once(study, answer["drawn"], rows)
    assert {t.state for t in study.get_trials(deepcopy=False)} == {TrialState.COMPLETE}


def test_queued_trials_are_drawn_once_each(where: str, hands: Hands) -> None:
    check_queue(where, hands, rows=12, workers=3)


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(10))
def test_forty_queued_trials_and_four_workers(where: str, hands: Hands, repetition: int) -> None:
    check_queue(where, hands, rows=40, workers=4)


def test_the_budget_is_exact_and_no_two_workers_have_the_same_idea(where: str, hands: Hands) -> None:
    study = new_study(where, 3)
    answer = hands(storage=where, name=study.study_name, workers=3, total=11)
    check_each_once(study, answer["drawn"], 11)


def test_a_killed_worker_s_trial_is_drawn_again_by_the_others(where: str, hands: Hands) -> None:
    study = new_study(where, 8)
    answer = hands(storage=where, name=study.study_name, workers=3, total=10, deaths={"1": 1})
    assert answer["codes"] == [0, -9, 0]
    lost = answer["drawn"].pop(1)
    assert len(lost) == 1
    check_each_once(study, answer["drawn"], 10)
    interrupted = [t for t in study.get_trials() if t.user_attrs.get("reason") == "interrupted"]
    assert [t.params for t in interrupted] == lost


def test_when_all_are_killed_the_next_one_goes_on_at_once(where: str, hands: Hands) -> None:
    study = new_study(where, 6)
    hands(storage=where, name=study.study_name, workers=2, total=8, deaths={"0": 2, "1": 2})
    assert finished(study) == 2
    answer = hands(storage=where, name=study.study_name, workers=1, total=8)
    assert answer["codes"] == [0]
    assert finished(study) == 8
    with transaction(study) as queue:
        assert dead_entries(study, queue.entries()) == []


def test_a_living_worker_s_trial_is_left_alone(where: str) -> None:
    study = new_study(where, 2)
    with Worker(study, SPACE) as slow:
        trial = slow.claim(2)
        assert trial is not None
        other = again(study, where)
        sampler = samplers.random(SPACE.distributions(), 5)
        open_study(backend(other), study.study_name, sampler, space=SPACE, fingerprint={}, design=[])
        assert recover(other) == []
        slow.tell(trial, 1.0)
    assert [t.state.name for t in study.get_trials()] == ["COMPLETE", "WAITING"]


def test_none_is_to_be_had_while_enough_are_running(where: str) -> None:
    study = new_study(where, 3)
    with Worker(study, SPACE) as one, Worker(again(study, where), SPACE) as two:
        first = one.claim(1)
        assert first is not None
        assert two.claim(1) is None
        one.fail(first, "black picture")  # costs no budget: its place is free again
        second = two.claim(1)
        assert second is not None
        assert two.tell(second, 1.0).done == 1
        assert one.claim(1) is None


def test_a_worker_that_leaves_hands_its_trial_back(where: str) -> None:
    study = new_study(where, 2)
    with Worker(study, SPACE) as one:
        trial = one.claim(2)
        assert trial is not None
    with Worker(again(study, where), SPACE) as two:
        same = two.claim(2)
        assert same is not None
        assert same.params == trial.params
        two.tell(same, 1.0)


def test_a_score_that_is_no_number_leaves_the_trial_running(where: str) -> None:
    study = new_study(where, 1)
    with Worker(study, SPACE) as one:
        trial = one.claim(1)
        assert trial is not None
        with pytest.raises(TrialFailed, match="not a number"):
            one.tell(trial, float("nan"))
        one.fail(trial, "the score is odd")
    assert study.trials[0].user_attrs["reason"] == "the score is odd"


def give_up(worker: Worker) -> None:
    """Let a worker look as if its machine had been off the net for an hour."""
    storage = backend(worker.study)
    Path(worker._lock.lock_file).unlink()
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'"))


def test_a_worker_that_was_given_up_finds_its_trial_and_keeps_its_score(where: str) -> None:
    study = new_study(where, 1)
    with Worker(study, SPACE) as slow, Worker(again(study, where), SPACE) as healer:
        trial = slow.claim(1)
        assert trial is not None
        give_up(slow)
        recover(healer.study)
        assert [t.state.name for t in study.get_trials()] == ["FAIL", "WAITING"]
        told = slow.tell(trial, 2.0, {"luck": [7]})
        assert (told.number, told.done) == (1, 1)
        assert healer.claim(1) is None
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["luck"] == [7]


def test_of_two_that_draw_the_same_the_first_gives_the_score(where: str) -> None:
    study = new_study(where, 1)
    with Worker(study, SPACE) as slow, Worker(again(study, where), SPACE) as fresh:
        trial = slow.claim(2)
        assert trial is not None
        give_up(slow)
        second = fresh.claim(2)
        assert second is not None
        assert second.params == trial.params
        assert slow.tell(trial, 2.0).number == second.number
        with pytest.raises(Superseded, match="another worker"):
            fresh.tell(second, 2.0)
        with pytest.raises(Superseded):
            fresh.fail(second, "out of memory")
        third = fresh.claim(2)  # and life goes on
        assert third is not None
        fresh.tell(third, 3.0)
        assert fresh.claim(2) is None
    assert finished(study) == 2


def test_a_score_of_a_trial_that_was_drawn_twice_is_refused_once(where: str) -> None:
    study = new_study(where, 1)
    with Worker(study, SPACE) as slow, Worker(again(study, where), SPACE) as fresh:
        trial = slow.claim(1)
        assert trial is not None
        give_up(slow)
        second = fresh.claim(1)
        assert second is not None
        fresh.tell(second, 2.0)
        with pytest.raises(Superseded):
            slow.tell(trial, 2.0)
    assert finished(study) == 1


def test_signs_of_life_reach_the_database(where: str) -> None:
    study = new_study(where, 1)
    with Worker(study, SPACE, beat=0.01) as worker:
        trial = worker.claim(1)
        assert trial is not None
        with backend(study).engine.begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'"))
        for _ in range(1000):
            if not backend(study)._get_stale_trial_ids(study._study_id):
                break
        worker.tell(trial, 1.0)
    assert backend(study)._get_stale_trial_ids(study._study_id) == []


def cut_all_lines(postgres: str) -> None:
    with open_storage(postgres).engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = user"
        )


def test_a_broken_line_to_the_server_loses_nothing(postgres: str) -> None:
    study = new_study(postgres, 1)
    with Worker(study, SPACE) as worker:
        cut_all_lines(postgres)
        trial = worker.claim(1)
        assert trial is not None
        cut_all_lines(postgres)
        assert worker.tell(trial, 1.0, {"scores": [1]}).done == 1
        cut_all_lines(postgres)
        assert worker.claim(1) is None
    assert [t.state.name for t in study.trials] == ["COMPLETE"]


def test_a_worker_holds_no_connection_while_it_draws(postgres: str) -> None:
    study = new_study(f"{postgres}?application_name=drawing", 2)

    def connections() -> int:
        with open_storage(postgres).engine.connect() as connection:
            ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drawing'"
            return int(connection.exec_driver_sql(ours).scalar_one())

    with Worker(study, SPACE) as worker:
        trial = worker.claim(2)
        assert trial is not None
        for _ in range(1000):  # the server takes a moment to forget a connection
            if connections() == 0:
                break
        assert connections() == 0
        worker.tell(trial, 1.0)
        assert connections() == 1


def test_a_line_that_breaks_while_a_suggestion_is_made_gives_it_to_nobody_else(postgres: str) -> None:
    study = new_study(postgres, 0)
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="terminat"), broken_off(study, postgres) as check_lock:
        check_lock()


@contextmanager
def broken_off(study: Study, postgres: str) -> Iterator[Callable[[], None]]:
    with proposer_lock(study) as check_lock:
        assert check_lock is not None
        check_lock()
        cut_all_lines(postgres)
        yield check_lock


def test_a_trial_taken_over_a_line_that_broke_is_not_forgotten(where: str) -> None:
    study = new_study(where, 1)
    with Worker(study, SPACE) as worker:
        lost = worker.claim(1)  # and the answer never came
        assert lost is not None
        again_asked = worker.claim(1)
        assert again_asked is not None
        assert again_asked.params == lost.params
        worker.tell(again_asked, 1.0)
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "COMPLETE"]


def test_a_worker_leaves_no_file_behind(tmp_path: Path) -> None:
    study = new_study(str(tmp_path / "study.db"), 1)
    with Worker(study, SPACE) as worker:
        worker.claim(1)
        assert len(list(tmp_path.glob("study.db-worker-*"))) == 1
    assert not list(tmp_path.glob("study.db-worker-*"))


def test_the_lock_of_a_killed_worker_is_swept_away(tmp_path: Path, hands: Hands) -> None:
    study = new_study(str(tmp_path / "a[b].db"), 2)
    hands(storage=str(tmp_path / "a[b].db"), name=study.study_name, workers=1, total=2, deaths={"0": 1})
    assert len(list(tmp_path.glob("*-worker-*"))) == 1
    with Worker(study, SPACE) as alive:
        assert len(recover(study)) == 1
        assert [path.name.rpartition("-")[2] for path in tmp_path.glob("*-worker-*")] == [alive.id]


def died(study: Study, trial: FrozenTrial) -> None:
    """As if the process that draws it had been killed."""
    with transaction(study) as queue:
        queue_again(queue, [e for e in queue.entries() if e.number == trial.number], died=True)


def test_a_merge_at_which_three_processes_ended_has_failed(where: str) -> None:
    study = new_study(where, 2)
    for number in (0, 2):
        trial = Worker(study, SPACE).claim(2)
        assert trial is not None
        assert trial.number == number  # the same values, ahead of the others
        died(study, trial)
    with Worker(study, SPACE) as careful:
        other = careful.claim(2)
        assert other is not None
        assert other.number == 1
        careful.tell(other, 5.0)
        dangerous = careful.claim(2)
        assert dangerous is not None
        assert dangerous.user_attrs["deaths"] == 2
        died(study, dangerous)
    states = [(t.state.name, t.user_attrs.get("reason", "")) for t in study.get_trials(deepcopy=False)]
    reason = "the process ended while it was drawn, 3 times (killed, out of memory or a crash)"
    assert states[dangerous.number] == ("FAIL", reason)
    assert "WAITING" not in {state for state, _ in states}


def test_no_process_begins_with_a_merge_at_which_two_ended(where: str) -> None:
    study = new_study(where, 1)
    for _ in range(2):
        trial = Worker(study, SPACE).claim(3)
        assert trial is not None
        died(study, trial)
    first = Worker(study, SPACE).claim(3)
    assert first is not None
    assert first.user_attrs["phase"] == "search"


def test_who_leaves_politely_is_not_counted(where: str) -> None:
    study = new_study(where, 1)
    for _ in range(4):
        with Worker(study, SPACE) as worker:
            assert worker.claim(1) is not None
    assert study.get_trials(deepcopy=False)[-1].state == TrialState.WAITING
