"""A search that ends early says why, ends for all, and goes on when asked for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.run import loop
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import complete_trials, posterior_of
from bayes_merger.search.study.stopping import PATIENT_FROM, SECONDS, STOPPED, worked
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import evaluator_of, make_setup, noisy, searched


def test_patience_ends_the_search_and_the_reason_is_kept(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": lambda alpha, seed: 5.0 + (alpha == 0.0)}, n_iters=40, patience=6)
    study, notes = searched(parts, tmp_path / "s")
    # Pure A is the first trial of all, and the best: the design of 4, then 6 in vain.
    assert len(complete_trials(study)) == 10
    assert study.user_attrs[STOPPED].startswith("patience: in the last 6 trials")
    assert notes.lines == [f"the search ends early; {study.user_attrs[STOPPED]}"]


def test_another_worker_finds_it_ended_and_draws_nothing(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": lambda alpha, seed: 5.0 + (alpha == 0.0)}, n_iters=40, patience=6)
    study, _ = searched(parts, tmp_path / "s")
    notes = RecordingReporter()
    bench = evaluator_of(parts)
    loop.search(parts, study, bench, RunFolder(tmp_path / "s"), notes, StopSignal(notes), name="2")
    assert bench.drawn == []
    assert notes.lines == []


def test_who_asks_for_more_gets_more(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": lambda alpha, seed: 5.0 + (alpha == 0.0)}, n_iters=40, patience=6)
    study, _ = searched(parts, tmp_path / "s")
    study.set_user_attr(STOPPED, None)  # as resume does
    study.set_user_attr(PATIENT_FROM, 10)
    searched(parts, tmp_path / "s")
    assert len(complete_trials(study)) == 16


@pytest.mark.slow
def test_a_search_that_gets_better_uses_all_its_trials(tmp_path: Path) -> None:
    calls: list[float] = []

    def better_and_better(alpha: float, seed: int) -> float:
        calls.append(alpha)
        return 0.01 * len(calls)

    study, notes = searched(make_setup(scorers={"one": better_and_better}, n_iters=16, patience=3), tmp_path / "s")
    assert len(complete_trials(study)) == 20
    assert not study.user_attrs.get(STOPPED)
    assert notes.lines == []


def test_the_time_of_every_trial_is_kept_and_ends_the_search(tmp_path: Path) -> None:
    study, _ = searched(make_setup(n_iters=40, time_limit="0.001s"), tmp_path / "s")
    assert len(complete_trials(study)) == 1
    assert study.user_attrs[STOPPED].startswith("time_limit: ")
    assert worked(study) == pytest.approx(complete_trials(study)[0].user_attrs[SECONDS], abs=1e-3)
    assert worked(study) > 0


def test_enough_time_ends_nothing(tmp_path: Path) -> None:
    study, _ = searched(make_setup(n_iters=6, time_limit="2h", patience=50), tmp_path / "s")
    assert len(complete_trials(study)) == 10
    assert not study.user_attrs.get(STOPPED)


def test_the_noise_of_a_study_is_that_of_its_pictures(tmp_path: Path) -> None:
    """16 pictures with luck of 0.5 each: a trial's score has luck of 0.125."""
    parts = make_setup(pictures=16, scorers={"one": noisy(0.5)}, n_iters=16)
    study, notes = searched(parts, tmp_path / "s")
    known = posterior_of(study)
    assert known.fitted
    assert 0.11 < known.noise < 0.14
    assert known.best is not None
    assert notes.reports[-1].mean == known.best.mean
    assert notes.reports[0].mean is None
