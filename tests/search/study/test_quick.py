"""The trials of a database read at once: the same as Optuna reads, and the same again when some have changed."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search.study.quick import QuickStorage
from bayes_merger.search.study.storage import open_storage

RANGES = {"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 9), "c": CategoricalDistribution(["a", None])}


class NewerVersion(QuickStorage):
    """A storage whose tables are not those that we know."""

    def get_current_version(self) -> str:
        return "v99"


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study.db") if request.param == "sqlite" else request.getfixturevalue("postgres")


def with_all_states(where: str) -> optuna.Study:
    """A study with whatever Optuna can store."""
    study = optuna.create_study(storage=open_storage(where), directions=["maximize", "minimize"])
    for count, state in enumerate(TrialState):
        study.add_trial(
            optuna.create_trial(
                state=state,
                values=[0.5 + count, -math.inf] if state == TrialState.COMPLETE else None,
                params={"x": 0.1 + 0.2, "n": 3, "c": None},
                distributions=dict(RANGES),
                user_attrs={"scores": [{"value": 1.5}], "ä": 2},
                system_attrs={"own": True},
                intermediate_values={0: 1.0, 3: math.inf},
            )
        )
    return study


def read_by(kind: type[RDBStorage], where: str, study: optuna.Study, known: set[int], last: int) -> list[FrozenTrial]:
    return open_storage(where, kind=kind)._get_trials(study._study_id, None, known, last)


def test_it_reads_what_optuna_reads(where: str) -> None:
    study = with_all_states(where)
    with_all_states(where)  # another study's trials are not read
    ids = [trial._trial_id for trial in study.trials]
    for known, last in (
        (set(), -1),
        (set(), ids[1]),
        ({ids[0], ids[1]}, ids[2]),
        (set(ids), ids[-1]),
        (set(), ids[-1]),
    ):
        ours, theirs = (read_by(kind, where, study, known, last) for kind in (QuickStorage, RDBStorage))
        assert ours == theirs
        assert [list(trial.params) for trial in ours] == [list(trial.params) for trial in theirs]
    assert len(read_by(QuickStorage, where, study, {ids[0]}, ids[2])) == 3


def test_a_study_s_attributes_are_those_that_optuna_reads(where: str) -> None:
    study, empty = (optuna.create_study(storage=open_storage(where)) for _ in range(2))
    study.set_user_attr("ä", {"b": [1, None]})
    study.set_user_attr("none", None)
    reader = open_storage(where, kind=QuickStorage)
    assert reader.get_study_user_attrs(study._study_id) == {"ä": {"b": [1, None]}, "none": None}
    assert reader.get_study_user_attrs(empty._study_id) == {}
    with pytest.raises(KeyError):
        reader.get_study_user_attrs(10**6)


def test_what_changed_since_is_read_again(where: str) -> None:
    study = with_all_states(where)
    reader = optuna.load_study(study_name=study.study_name, storage=open_storage(where))
    assert [trial.state.name for trial in reader.trials] == ["RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING"]
    study.tell(0, [2.0, 3.0])
    study.add_trial(study.trials[1])
    assert (
        reader.trials
        == optuna.load_study(study_name=study.study_name, storage=open_storage(where, kind=RDBStorage)).trials
    )
    assert [trial.values for trial in reader.trials if trial.values] == [[2.0, 3.0], [1.5, -math.inf], [1.5, -math.inf]]


def test_tables_of_another_version_are_left_to_optuna(tmp_path: Path) -> None:
    where = str(tmp_path / "study.db")
    study = with_all_states(where)
    ours, theirs = (read_by(kind, where, study, set(), -1) for kind in (NewerVersion, RDBStorage))
    assert ours == theirs
    shared = [len({id(trial.distributions["x"]) for trial in trials}) for trials in (theirs, ours)]
    assert shared == [5, 5]  # each of Optuna's has a range of its own, ours share one
    quick = read_by(QuickStorage, where, study, set(), -1)
    assert len({id(trial.distributions["x"]) for trial in quick}) == 1
