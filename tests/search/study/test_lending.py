"""Trials that are lent: no process has them, so none dies over them; time alone brings them back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState

from bayes_merger.errors import Closed, ConfigError
from bayes_merger.search.space.design import design
from bayes_merger.search.study.alive import recover
from bayes_merger.search.study.history import DEATHS, WORKER
from bayes_merger.search.study.lending import Lender
from bayes_merger.search.study.sound import is_sound
from bayes_merger.search.study.storage import open_storage
from bayes_merger.search.study.study import create_study, finished, load_study
from bayes_merger.search.study.workers import Worker
from tests.search.worker_processes import SPACE

HOUR, PAST = 3600.0, -1.0


class OtherVersion(RDBStorage):
    """As an Optuna whose tables are not known: written through its own API."""

    def get_current_version(self) -> str:
        return "v99.0.0.a"


@pytest.fixture(params=[RDBStorage, OtherVersion], ids=["tables", "through Optuna"])
def study(request: pytest.FixtureRequest, tmp_path: Path, tables: Path) -> Study:
    """One with four rows of a start design waiting."""
    shutil.copy(tables, tmp_path / "study.db")
    storage = open_storage(str(tmp_path / "study.db"), kind=request.param)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return create_study(storage, "s", sampler, space=SPACE, fingerprint={}, design=design(SPACE, 4, 5))


def lent(study: Study, name: str, seconds: float = HOUR, total: int = 9) -> Any:
    return Lender(study, SPACE, name, seconds).lend(total)


def test_a_lent_trial_is_nobody_elses_and_survives_whoever_lent_it(study: Study, tmp_path: Path) -> None:
    trial = lent(study, "ann")
    other = load_study(open_storage(str(tmp_path / "study.db")), "s", study.sampler)
    assert recover(other) == []
    with Worker(other, SPACE) as worker:
        taken = worker.claim(9)
        assert taken
        assert taken.number != trial.number
        worker.tell(taken, 1.0)
    assert lent(other, "ann").number == trial.number
    assert lent(other, "bob").number not in (trial.number, taken.number)
    assert Lender(other, SPACE).take_back(trial.number, 2.0).done == 2


def test_when_its_time_is_over_any_worker_gets_it_and_no_death_is_counted(study: Study) -> None:
    trial = lent(study, "ann", PAST)
    with Worker(study, SPACE) as worker:
        again = worker.claim(9)
        assert again
        assert again.params == trial.params
        assert DEATHS not in again.user_attrs
        worker.tell(again, 1.5)
    with pytest.raises(Closed, match=r"was told already \(1.5\)"):
        Lender(study, SPACE).take_back(trial.number, 3.0)
    assert finished(study) == 1


def test_the_budget_counts_what_is_lent(study: Study) -> None:
    numbers = [lent(study, name, total=3).number for name in ("ann", "bob", "eve")]
    assert lent(study, "dan", total=3) is None
    assert lent(study, "ann", total=3).number == numbers[0]
    lender = Lender(study, SPACE)
    for number in numbers:
        lender.take_back(number, 1.0)
    assert lent(study, "dan", total=3) is None
    assert finished(study) == 3


def test_a_failure_of_a_trial_that_waits_again_is_not_taken_for_one(study: Study) -> None:
    trial = lent(study, "ann", PAST)
    recover(study)
    with pytest.raises(Closed, match="its time is over, and it waits again; ask once more"):
        Lender(study, SPACE).take_back(trial.number, None, "black")
    assert Lender(study, SPACE).take_back(trial.number, 2.5).done == 1  # a score is worth having, though late
    assert study.trials[-1].value == 2.5
    assert {one.state for one in study.trials[1:4]} == {TrialState.WAITING}


def test_what_was_never_lent_is_not_taken(study: Study) -> None:
    with Worker(study, SPACE) as worker:
        drawn = worker.claim(9)
        assert drawn
        lender = Lender(study, SPACE)
        for number in (drawn.number, 3):
            with pytest.raises(Closed, match="is not lent; ask for one first"):
                lender.take_back(number, 1.0)
        with pytest.raises(ConfigError, match="trial 12: there is none"):
            lender.take_back(12, 1.0)
        for score in (float("nan"), float("inf"), 1e101):
            with pytest.raises(ConfigError, match="no number that can be compared"):
                lender.take_back(drawn.number, score)


@pytest.mark.parametrize("until", ["tomorrow", None, float("nan"), 1e300, [1], True])
def test_only_a_moment_is_an_end(until: Any) -> None:
    worker = {"id": "ab12", "host": "", "pid": 0, "name": "", "until": 1.8e9}
    assert is_sound(WORKER, worker)
    assert not is_sound(WORKER, {**worker, "until": until})


def test_any_name_is_a_borrowers(study: Study) -> None:
    for name in ("", "a/../b", "x" * 5000, "\ud800", "\0", "Ω"):
        assert lent(study, name).number == lent(study, name).number
