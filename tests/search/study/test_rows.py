"""A study's file read row by row: the same trials as Optuna reads, and nothing is ever written."""

from __future__ import annotations

import copy
import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from bayes_merger.search.study.rows import RowStorage, snapshot


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "study.db"
    ranges = {"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 9), "c": CategoricalDistribution(["a", None])}
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    for name, directions in (("one", [up]), ("two", [up, down])):
        study = optuna.create_study(storage=f"sqlite:///{path}", study_name=name, directions=directions)
        study.set_user_attr("config", {"name": "ä\n<b>"})
        for count, state in enumerate(TrialState):
            trial = optuna.create_trial(
                state=state,
                values=[0.5 + count, -math.inf][: len(directions)] if state == TrialState.COMPLETE else None,
                params={"x": 0.25, "n": 3, "c": None},
                distributions=dict(ranges),
                user_attrs={"scores": [{"value": 1.5}], "seconds": 2},
                system_attrs={"own": True},
                intermediate_values={0: 1.0, 3: math.inf},
            )
            study.add_trial(trial)
        study.ask()
    return path


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    """Two studies with whatever Optuna can store."""
    return Path(shutil.copy(made, tmp_path))


def read(path: Path) -> RowStorage:
    found = snapshot(path, print)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["one", "two"])
def test_it_reads_what_optuna_reads(file: Path, name: str) -> None:
    ours = optuna.load_study(study_name=name, storage=read(file))
    theirs = optuna.load_study(study_name=name, storage=f"sqlite:///{file}")
    assert ours.trials == theirs.trials
    assert [list(trial.params) for trial in ours.trials] == [list(trial.params) for trial in theirs.trials]
    assert len(ours.trials) == 5
    assert isinstance(ours.trials[-1].datetime_start, datetime)
    assert (ours.user_attrs, ours.directions) == (theirs.user_attrs, theirs.directions)
    assert ours.best_trials == theirs.best_trials
    assert read(file).get_trial(theirs.trials[2]._trial_id) == theirs.trials[2]
    assert optuna.get_all_study_names(read(file)) == ["one", "two"]


def test_a_study_that_is_alone_in_its_file_is_read_as_optuna_reads_it(file: Path) -> None:
    optuna.delete_study(study_name="two", storage=f"sqlite:///{file}")
    ours = optuna.load_study(study_name="one", storage=read(file))
    assert ours.trials == optuna.load_study(study_name="one", storage=f"sqlite:///{file}").trials
    assert len(ours.trials) == 5


@pytest.mark.parametrize("texts", [("1,2", "[3"), ("[1", "2]"), ("1", "")])
def test_texts_that_only_make_sense_together_make_none(file: Path, texts: tuple[str, str]) -> None:
    database = sqlite3.connect(file)
    with database:
        for id, text in enumerate(texts, start=1):
            database.execute("UPDATE study_user_attributes SET value_json = ? WHERE study_id = ?", (text, id))
    database.close()
    with pytest.raises(json.JSONDecodeError):
        read(file)


@pytest.mark.parametrize("text", ["[1", "", "1,2", "[" * 100_000, None])
def test_what_a_trial_has_that_cannot_be_read_is_missing(file: Path, text: str | None) -> None:
    database = sqlite3.connect(file)
    with database:
        database.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'scores'", (text,))
    database.close()
    trial = read(file).get_all_trials(1)[1]
    assert "scores" not in trial.user_attrs
    assert trial.user_attrs.get("scores") is None
    assert (dict(trial.user_attrs), len(trial.user_attrs)) == ({"seconds": 2}, 1)
    assert copy.deepcopy(trial) == trial
    assert type(copy.deepcopy(trial).user_attrs) is dict


@pytest.mark.parametrize(
    "write",
    [
        lambda study: study.set_user_attr("a", 1),
        lambda study: study.ask(),
        lambda study: study._storage.set_trial_user_attr(1, "a", 1),
        lambda study: optuna.delete_study(study_name="one", storage=study._storage),
    ],
)
def test_it_writes_nothing(file: Path, write: Callable[[optuna.Study], Any]) -> None:
    before = file.read_bytes()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        write(optuna.load_study(study_name="one", storage=read(file)))
    assert file.read_bytes() == before


def test_other_tables_than_those_it_knows_are_left_to_optuna(file: Path) -> None:
    database = sqlite3.connect(file)
    with database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.0.0'")
    database.close()
    assert snapshot(file, print) is None


def test_reading_a_study_needs_no_sqlalchemy() -> None:
    code = "import sys, bayes_merger.search.study.loading; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
