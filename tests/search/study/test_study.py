"""The study: created whole, asked in order, told only numbers."""

from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from bayes_merger.errors import ConfigError, TrialFailed
from bayes_merger.search import SearchSpace, build_space, samplers
from bayes_merger.search.space.cube import to_point
from bayes_merger.search.study.study import (
    ask,
    create_study,
    design,
    fail,
    failed,
    fingerprint_difference,
    finished,
    load_study,
    open_storage,
    open_study,
    recover,
    tell,
)

BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
SPACE = build_space(("BASE", "IN00"), {"alpha": (0.0, 1.0)}, ranges={"IN00": [0.2, 0.7]})
PRINT = {"models": {"a": "1234", "b": "5678"}, "method": "weighted_sum"}


def created(storage: Any, rows: list[dict[str, float]] | None = None, name: str = "s", **changes: Any) -> Study:
    sampler = samplers.random(SPACE.distributions(), 3)
    rows = design(SPACE, 4, 3) if rows is None else rows
    settings: dict[str, Any] = {"space": SPACE, "fingerprint": PRINT, "design": rows} | changes
    return create_study(storage, name, sampler, **settings)


@pytest.fixture
def storage(tables: Path, tmp_path: Path) -> Any:
    return open_storage(shutil.copy(tables, tmp_path / "study.db"))


def test_a_design_begins_with_pure_a_pure_b_and_the_even_mix() -> None:
    space = build_space(BLOCKS, {"alpha": (0.0, 1.0)})
    rows = design(space, 20, 7)
    assert [set(row.values()) for row in rows[:3]] == [{0.0}, {1.0}, {0.5}]
    assert len(rows) == 20
    assert rows == design(space, 20, 7)
    assert rows[:7] == design(space, 20, 8)[:7]
    assert rows[7:] != design(space, 20, 8)[7:]


def test_the_rest_of_a_hypercube_hits_every_part_of_every_range_once() -> None:
    space = build_space(BLOCKS, {"alpha": (0.0, 1.0)}, ranges={"IN00": [0.2, 0.4]}, groups=[["OUT00-OUT11"]])
    cube = np.array([to_point(row, space.distributions()) for row in design(space, 20, 7, kind="lhs")[3:]])
    assert cube.shape == (17, 15)
    assert np.sort((cube * 17 + 1e-9).astype(int), axis=0).T.tolist() == [list(range(17))] * 15


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_design_has_as_many_rows_as_asked_for(count: int) -> None:
    assert len(design(SPACE, count, 0)) == count


@pytest.mark.parametrize("count", [-1, 2.5, True])
def test_a_design_of_no_whole_number_of_rows_is_an_error(count: Any) -> None:
    with pytest.raises(ConfigError, match="init_points"):
        design(SPACE, count, 0)


def test_the_design_is_asked_in_order_then_the_sampler(storage: Any) -> None:
    study = created(storage)
    rows = design(SPACE, 4, 3)
    for row in rows:
        trial = ask(study, SPACE)
        assert trial.params == row
        assert trial.user_attrs["phase"] == "design"
        tell(study, trial, 1.0)
    trial = ask(study, SPACE)
    assert trial.user_attrs["phase"] == "search"
    assert trial.params not in rows
    assert finished(study) == 4
    assert failed(study) == 0


def test_values_come_back_from_the_file_to_the_last_bit(tmp_path: Path) -> None:
    rows = [{"BASE.alpha": 0.1 + 0.2, "IN00.alpha": 1 / 3}, {"BASE.alpha": math.nextafter(1, 0), "IN00.alpha": 0.2}]
    created(open_storage(tmp_path / "s.db"), rows)
    study = load_study(open_storage(tmp_path / "s.db"), "s")
    assert [trial.params for trial in study.trials] == rows


def test_every_value_of_a_trial_is_stored_before_it_runs(storage: Any) -> None:
    study = created(storage, [])
    trial = ask(study, SPACE)
    other = load_study(storage, "s").trials[0]
    assert other.state == TrialState.RUNNING
    assert other.params == trial.params
    assert set(other.params) == {"BASE.alpha", "IN00.alpha"}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_never_stored_as_a_score(storage: Any, score: float) -> None:
    study = created(storage)
    trial = ask(study, SPACE)
    with pytest.raises(TrialFailed, match="trial 0: the score is"):
        tell(study, trial, score)
    fail(study, trial, "the score is odd")
    assert (finished(study), failed(study)) == (0, 1)
    assert study.trials[0].user_attrs["reason"] == "the score is odd"
    assert study.trials[0].values is None


def test_a_study_is_not_created_twice(storage: Any) -> None:
    created(storage)
    with pytest.raises(ConfigError, match="'s' exists already: resume it"):
        created(storage)


def test_a_row_that_does_not_fit_is_refused_before_anything_is_written(storage: Any) -> None:
    with pytest.raises(ConfigError, match=r"IN00\.alpha = 0\.9 is outside"):
        created(storage, [{"BASE.alpha": 0.5, "IN00.alpha": 0.9}])
    assert optuna.get_all_study_names(storage) == []


def test_a_missing_study_is_an_error_that_names_the_near_ones(storage: Any) -> None:
    with pytest.raises(ConfigError, match="no study 'portraits' here; there is none"):
        load_study(storage, "portraits")
    created(storage, name="portrait")
    with pytest.raises(ConfigError, match="did you mean portrait"):
        load_study(storage, "portraits")


def test_a_half_created_study_is_told_from_a_whole_one(storage: Any) -> None:
    optuna.create_study(storage=storage, study_name="s", direction="maximize")  # and then the lights went out
    with pytest.raises(ConfigError, match="interrupted while being created"):
        load_study(storage, "s")
    assert len(created(storage).trials) == 4


def opened(storage: Any, fingerprint: dict[str, Any] = PRINT) -> Study:
    sampler = samplers.random(SPACE.distributions(), 3)
    return open_study(storage, "s", sampler, space=SPACE, fingerprint=fingerprint, design=design(SPACE, 4, 3))


def test_opening_creates_and_then_resumes(storage: Any) -> None:
    tell(study := opened(storage), ask(study, SPACE), 0.25)
    again = opened(storage)
    assert finished(again) == 1
    assert len(again.trials) == 4


def test_a_study_of_other_models_does_not_go_on(storage: Any) -> None:
    opened(storage)
    with pytest.raises(ConfigError, match=r"models.a: '1234' is now '9999'"):
        opened(storage, {"models": {"a": "9999", "b": "5678"}, "method": "weighted_sum"})


def test_differences_of_fingerprints_are_told_a_line_each() -> None:
    old = {"a": {"b": 1, "c": [1, 2], "gone": {}}, "same": None}
    new = {"a": {"b": 2, "c": [1, 3, 4]}, "same": None, "new": True}
    assert fingerprint_difference(old, new) == [
        "a.b: 1 is now 2",
        "a.c.1: 2 is now 3",
        "a.c.2: 4 is new",
        "a.gone: {} is gone",
        "new: True is new",
    ]
    assert fingerprint_difference(old, old) == []
    assert fingerprint_difference({"size": [512, 512]}, {"size": (512, 512)}) == []


def test_a_difference_in_a_list_of_names_and_values_is_told_by_the_name() -> None:
    before, after = [["saliency.a", "12"], ["saliency.b", "34"]], [["saliency.a", "12"], ["saliency.b", "56"]]
    assert fingerprint_difference({"f": before}, {"f": after}) == ["f.saliency.b: '34' is now '56'"]
    assert len(fingerprint_difference({"f": before}, {"f": before[::-1]})) == 4
    assert fingerprint_difference({"f": ["x", "y"]}, {"f": ["x", "z"]}) == ["f.1: 'y' is now 'z'"]


def test_an_interrupted_trial_is_asked_again_before_all_others(storage: Any) -> None:
    study = created(storage)
    tell(study, ask(study, SPACE), 1.0)
    lost = ask(study, SPACE)
    lost.set_user_attr("scores", [1, 2])
    assert recover(study) == [1]
    assert recover(study) == []
    again = ask(study, SPACE)
    assert again.params == lost.params
    assert "scores" not in again.user_attrs
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "WAITING", "WAITING", "RUNNING"]
    assert failed(study) == 0


def test_a_trial_interrupted_three_times_is_still_the_same_trial(storage: Any) -> None:
    study = created(storage)
    first = ask(study, SPACE).params
    for _ in range(3):
        recover(study)
        trial = ask(study, SPACE)
        assert trial.params == first
    assert trial.user_attrs["origin"] == 0


def test_a_person_may_queue_values_and_leave_some_open(storage: Any) -> None:
    study = created(storage, [])
    study.enqueue_trial({"BASE.alpha": 0.125})
    first = ask(study, SPACE)
    assert first.params["BASE.alpha"] == 0.125
    recover(study)
    assert ask(study, SPACE).params == first.params


@pytest.mark.parametrize(
    ("values", "reason"),
    [({"BASE.alpha": 1.7}, "BASE.alpha = 1.7 is outside 0 ... 1"), ({"IN07.alpha": 0.5}, "IN07.alpha is not searched")],
)
def test_a_person_who_queues_nonsense_gets_a_failed_trial_with_the_reason(
    storage: Any, values: dict[str, float], reason: str
) -> None:
    study = created(storage, [])
    study.enqueue_trial(values)
    assert ask(study, SPACE).number == 1
    assert reason in study.trials[0].user_attrs["reason"]


def test_any_optuna_sampler_may_suggest(storage: Any) -> None:
    study = created(storage, [])
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    assert set(ask(study, SPACE).params) == {"BASE.alpha", "IN00.alpha"}


def test_a_file_is_shared_safely(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "deep" / "er" / "s.db")
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL: told is on the disk
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(tmp_path / "deep" / "er" / "s.db", timeout=0).execute("BEGIN IMMEDIATE")


def test_a_path_may_have_any_letters(tmp_path: Path) -> None:
    created(open_storage(tmp_path / "a b%20c?d#e@f.db"))
    assert (tmp_path / "a b%20c?d#e@f.db").is_file()


def test_a_study_to_be_read_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.db: no study here"):
        open_storage(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG" + bytes(5000))
    with pytest.raises(ConfigError, match=r"picture\.png: not a study's storage \(file is not a database"):
        open_storage(picture)
    assert picture.read_bytes() == b"\x89PNG" + bytes(5000)


def test_an_address_nobody_knows_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not a study's storage"):
        open_storage("nosuchdb://host/name")


def test_the_space_is_kept_with_the_study(storage: Any) -> None:
    created(storage)
    stored = load_study(storage, "s").user_attrs["design"]["space"]
    assert SearchSpace.from_json(stored) == SPACE
