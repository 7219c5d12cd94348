"""When a run is expected to be over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger.config import FinalConfig
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.outlook import seconds_left
from bayes_merger.run.progress import ends
from bayes_merger.search.study.workers import Worker
from tests.run.fake_run import make_setup, open_study, searched


def study_of(folder: Path, took: list[float], **settings: Any) -> tuple[Any, optuna.study.Study]:
    setup = make_setup(**{"init_points": 8, "n_iters": 12, "final": FinalConfig(images=0), **settings})
    study = open_study(setup, RunFolder(folder))
    with Worker(study, setup.space) as worker:
        for seconds in took:
            trial = worker.claim(20)
            assert trial is not None
            worker.tell(trial, 5.0, {"seconds": seconds})
    return setup, study


def test_nothing_is_known_before_the_first_trial(tmp_path: Path) -> None:
    setup, study = study_of(tmp_path / "s", [])
    assert seconds_left(setup, study, 0) is None


def test_the_usual_trial_counts_and_not_the_one_that_took_long(tmp_path: Path) -> None:
    setup, study = study_of(tmp_path / "s", [100.0, 2.0, 2.0])
    assert seconds_left(setup, study, 3) == pytest.approx(17 * 2.0)


def test_workers_share_and_the_final_round_comes_on_top(tmp_path: Path) -> None:
    setup, study = study_of(tmp_path / "s", [2.0], workers=2, final=FinalConfig(rescore=1, images=2))
    # The best one again, and the best, A, B and the even mix: five times as many pictures as a trial has.
    assert seconds_left(setup, study, 1) == pytest.approx(2.0 * (19 / 2 + 5))


def test_a_limit_of_time_ends_it_earlier(tmp_path: Path) -> None:
    setup, study = study_of(tmp_path / "s", [2.0], time_limit="10s")
    left = seconds_left(setup, study, 1)
    assert left is not None
    assert 7.0 <= left <= 8.0 + 1e-6


def test_every_trial_says_it_and_at_the_end_nothing_is_left(tmp_path: Path) -> None:
    _, notes = searched(make_setup(init_points=2, n_iters=1, final=FinalConfig(images=0)), tmp_path / "s")
    assert [report.left is not None for report in notes.reports] == [True, True, True]
    assert notes.reports[-1].left == 0.0


def test_an_end_is_a_time_of_day_and_how_long_that_is() -> None:
    words = ends(5400.0)
    assert words.startswith("ends about ")
    assert words.endswith(" (1 h 30 min)")
