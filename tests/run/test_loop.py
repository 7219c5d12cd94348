"""The loop with a bench that needs no model: scores are a formula, failures come when told."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.errors import BayesMergerError, Interrupted
from bayes_merger.run import loop
from bayes_merger.run.fingerprint import candidate_id
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import best_value, complete_trials
from bayes_merger.run.setup import RunSetup
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import evaluator_of, make_setup, open_study

BLOCKS = SD1.blocks


def setup_of(**settings: Any) -> RunSetup:
    return make_setup(pictures=1, payloads=1, scorers={"formula": lambda alpha, seed: 10 - abs(alpha - 0.25)},
                      **{"n_iters": 3, **settings})  # fmt: skip


def run(
    setup: RunSetup, folder: RunFolder, notes: RecordingReporter, failing: Sequence[int] = ()
) -> optuna.study.Study:
    """The study, searched; these trials cannot be drawn."""
    study = open_study(setup, folder)
    reason = "payload p0, picture 0 (seed 1): the latents are not finite"
    trials = count()
    evaluator = evaluator_of(setup, fails=lambda weights, baseline: reason if next(trials) in failing else "")
    loop.search(setup, study, evaluator, folder, notes, StopSignal(notes))
    return study


def test_the_budget_is_met_exactly_and_the_best_is_known(tmp_path: Path) -> None:
    notes = RecordingReporter()
    study = run(setup_of(), RunFolder(tmp_path / "s"), notes)
    assert [report.done for report in notes.reports] == [1, 2, 3, 4, 5, 6, 7]
    assert {report.total for report in notes.reports} == {7}
    assert best_value(study) == max(report.value for report in notes.reports if report.value)
    assert complete_trials(study)[0].user_attrs["weights"] == {"alpha": dict.fromkeys(BLOCKS, 0.0)}


def test_a_failed_trial_is_a_FAIL_with_its_reason_and_costs_no_budget(tmp_path: Path) -> None:
    notes = RecordingReporter()
    study = run(setup_of(), RunFolder(tmp_path / "s"), notes, failing=[1, 5])
    assert len(complete_trials(study)) == 7
    failed = [trial for trial in study.get_trials() if trial.state.name == "FAIL"]
    assert [trial.number for trial in failed] == [1, 5]
    assert all("latents are not finite" in trial.user_attrs["reason"] for trial in failed)
    assert all(trial.value is None for trial in failed)


def test_five_failures_in_a_row_end_the_run_with_the_reason(tmp_path: Path) -> None:
    notes = RecordingReporter()
    with pytest.raises(BayesMergerError, match=r"5 trials failed in a row.*latents are not finite"):
        run(setup_of(), RunFolder(tmp_path / "s"), notes, failing=range(100))
    assert len(notes.reports) == 5


def test_only_the_best_trials_keep_their_pictures_when_asked_to(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    study = run(setup_of(images="best"), folder, RecordingReporter())
    best = float("-inf")
    for trial in complete_trials(study):
        assert trial.value is not None
        assert folder.images(trial.number).exists() == (trial.value > best)
        best = max(best, trial.value)


def test_the_first_ctrl_c_is_heard_after_the_trial_and_the_second_at_once() -> None:
    notes = RecordingReporter()
    with StopSignal(notes) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        assert "Ctrl-C again" in notes.lines[0]
        with pytest.raises(Interrupted, match="every finished trial is kept"):
            stop.check()
        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)


def test_while_a_person_is_asked_ctrl_c_means_what_it_always_does() -> None:
    with StopSignal(RecordingReporter()) as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.asked


def test_a_merge_s_id_is_the_same_in_every_process_and_any_order() -> None:
    one = candidate_id({"alpha": {"BASE": 0.5, "IN00": 0.25}})
    assert one == candidate_id({"alpha": {"IN00": 0.25, "BASE": 0.5}})
    assert one != candidate_id({"alpha": {"BASE": 0.5, "IN00": 0.26}})
