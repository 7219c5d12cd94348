"""The loop with a bench that needs no model: scores are a formula, failures come when told."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger.config import RunConfig
from bayes_merger.errors import BayesMergerError, Interrupted, TrialFailed
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.merging.method import method_spec
from bayes_merger.run import loop
from bayes_merger.run.evaluator import Evaluation
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal, TrialReport
from bayes_merger.run.record import best_value, complete_trials
from bayes_merger.run.setup import RunSetup, candidate_id
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.samplers import random
from bayes_merger.search.space.space import build_space

BLOCKS = ("BASE", "IN00", "M00", "OUT00")


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.reports: list[TrialReport] = []
        self.lines: list[str] = []

    def step(self, text: str, done: int = 0, total: int = 0) -> None: ...

    def budget(self, done: int, total: int) -> None: ...

    def trial(self, report: TrialReport) -> None:
        self.reports.append(report)

    def note(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def quiet(self) -> Any:
        yield


class FormulaBench:
    """Scores a merge by its distance from BASE 0.25; fails on the trials it is told to."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = list(failing)
        self.count = -1
        self.weights: Mapping[str, Mapping[str, float]] = {}

    def put(self, weights: Mapping[str, Mapping[str, float]], method: str | None = None) -> None:
        self.weights = weights
        self.count += 1

    def draw(self, payloads: Sequence[Payload]) -> tuple[()]:
        if self.count in self.failing:
            raise TrialFailed("payload a, picture 0 (seed 1): the latents are not finite")
        return ()

    def save(self, folder: Path, images: object, payloads: object) -> tuple[Path, ...]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "a-0.png"
        path.write_bytes(b"picture")
        return (path,)

    def judge(self, weights: Any, payloads: Any, images: Any, paths: Any) -> Evaluation:
        value = 10 - abs(weights["alpha"]["BASE"] - 0.25)
        return Evaluation(value, (Score("formula", "a", 0, 1, value),), (), tuple(paths))


def make_setup(**settings: Any) -> RunSetup:
    config = RunConfig(model_a="a", model_b="b", **{"init_points": 4, "n_iters": 3, **settings})
    payloads = resolve([Payload("a", "a ring")], 0)
    space = build_space(BLOCKS, {"alpha": (0.0, 1.0)})
    return RunSetup(config, {}, method_spec("weighted_sum"), space, payloads, {}, random)


def make_study(parts: RunSetup, folder: RunFolder) -> optuna.study.Study:
    folder.path.mkdir(parents=True, exist_ok=True)
    return loop.open_study(parts, folder, {"method": "weighted_sum"}, {"config": {"init_points": 4, "n_iters": 3}})


def run(parts: RunSetup, folder: RunFolder, bench: Any, notes: Notes) -> optuna.study.Study:
    study = make_study(parts, folder)
    loop.search(parts, study, bench, folder, notes, StopSignal(notes))
    return study


def test_the_budget_is_met_exactly_and_the_best_is_known(tmp_path: Path) -> None:
    notes = Notes()
    study = run(make_setup(), RunFolder(tmp_path / "s"), FormulaBench(), notes)
    assert [report.done for report in notes.reports] == [1, 2, 3, 4, 5, 6, 7]
    assert {report.total for report in notes.reports} == {7}
    assert best_value(study) == max(report.value for report in notes.reports if report.value)
    assert complete_trials(study)[0].user_attrs["weights"] == {"alpha": dict.fromkeys(BLOCKS, 0.0)}


def test_a_failed_trial_is_a_FAIL_with_its_reason_and_costs_no_budget(tmp_path: Path) -> None:
    notes = Notes()
    study = run(make_setup(), RunFolder(tmp_path / "s"), FormulaBench(failing=[1, 5]), notes)
    assert len(complete_trials(study)) == 7
    failed = [trial for trial in study.get_trials() if trial.state.name == "FAIL"]
    assert [trial.number for trial in failed] == [1, 5]
    assert all("latents are not finite" in trial.user_attrs["reason"] for trial in failed)
    assert all(trial.value is None for trial in failed)


def test_five_failures_in_a_row_end_the_run_with_the_reason(tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(BayesMergerError, match=r"5 trials failed in a row.*latents are not finite"):
        run(make_setup(), RunFolder(tmp_path / "s"), FormulaBench(failing=range(100)), notes)
    assert len(notes.reports) == 5


def test_only_the_best_trials_keep_their_pictures_when_asked_to(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    study = run(make_setup(images="best"), folder, FormulaBench(), Notes())
    best = float("-inf")
    for trial in complete_trials(study):
        assert trial.value is not None
        assert folder.images(trial.number).exists() == (trial.value > best)
        best = max(best, trial.value)


def test_the_first_ctrl_c_is_heard_after_the_trial_and_the_second_at_once() -> None:
    notes = Notes()
    with StopSignal(notes) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        assert "Ctrl-C again" in notes.lines[0]
        with pytest.raises(Interrupted, match="every finished trial is kept"):
            stop.check()
        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)


def test_while_a_person_is_asked_ctrl_c_means_what_it_always_does() -> None:
    with StopSignal(Notes()) as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.asked


def test_a_merge_s_id_is_the_same_in_every_process_and_any_order() -> None:
    one = candidate_id({"alpha": {"BASE": 0.5, "IN00": 0.25}})
    assert one == candidate_id({"alpha": {"IN00": 0.25, "BASE": 0.5}})
    assert one != candidate_id({"alpha": {"BASE": 0.5, "IN00": 0.26}})
