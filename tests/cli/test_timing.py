"""``show NAME --timing``."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, create_trial

from bayes_merger.cli.show import show
from bayes_merger.errors import ConfigError
from bayes_merger.report.timing import beside, timing, timing_table
from tests.run.fake_run import make_setup, searched


def trial(seconds: float, **times: float) -> FrozenTrial:
    scores = [{"payload": "cat", "index": index} for index in (0, 0, 1)]
    return create_trial(value=1.0, user_attrs={"seconds": seconds, "times": times, "scores": scores})


def test_parts_are_means_and_the_rest_is_named() -> None:
    assert timing([trial(4.0, draw=2.0, score=1.0), trial(6.0, draw=4.0, own=1.0), trial(9.0)]) == {
        "choose": 0.0, "merge": 0.0, "embed": 0.0, "draw": 3.0, "decode": 0.0, "save": 0.0, "score": 0.5, "own": 0.5,
        "all else": 1.0,
    }  # fmt: skip
    assert timing([trial(9.0)]) == {}
    assert beside([]) == {}


def test_what_another_thread_did_meanwhile_is_said_and_not_added() -> None:
    trials = [trial(4.0, **{"draw": 3.0, "beside score": 2.0}) for _ in range(2)]
    assert sum(timing(trials).values()) == 4.0
    assert beside(trials) == {"beside score": 2.0}
    table = timing_table(trials)
    assert table is not None
    assert [list(column.cells)[-1] for column in table.columns] == [
        "scoring, in another thread",
        "2.000",
        "50%",
        "1.000",
    ]


def test_a_study_says_where_its_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, _ = searched(make_setup(init_points=2, n_iters=0), tmp_path / "s")
    show(["s", "--timing", "--runs", str(tmp_path)])
    text = capsys.readouterr().out
    assert "mean of 2 trials" in text
    assert "choosing the weights" in text
    assert "100%" in text
    show(["s", "--timing", "--json", "--runs", str(tmp_path)])
    parts = json.loads(capsys.readouterr().out)
    took = [trial.user_attrs["seconds"] for trial in study.get_trials()]
    assert sum(one for part, one in parts.items() if not part.startswith("beside ")) == pytest.approx(
        sum(took) / 2, abs=0.01
    )


def test_an_older_study_has_none_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(make_setup(init_points=1, n_iters=0), tmp_path / "s")
    with sqlite3.connect(tmp_path / "s" / "study.db") as database:
        database.execute("DELETE FROM trial_user_attributes WHERE key = 'times'")
    show(["s", "--timing", "--runs", str(tmp_path)])
    assert capsys.readouterr().out == "no trial of s says where its time went; those of studies from now on do\n"


@pytest.mark.parametrize("stored", ['"much"', '{"draw": "long"}', '{"draw": -1}', '{"draw": 1e999}', "[1]"])
def test_times_that_no_run_writes_are_nobody_s(tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str) -> None:
    searched(make_setup(init_points=1, n_iters=0), tmp_path / "s")
    with sqlite3.connect(tmp_path / "s" / "study.db") as database:
        database.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'times'", [stored])
    show(["s", "--timing", "--runs", str(tmp_path)])
    assert "no trial of s says" in capsys.readouterr().out


def test_it_is_asked_of_one_study() -> None:
    with pytest.raises(ConfigError, match="--timing: of which study"):
        show(["--timing"])
