"""Standardised scores: fixed by the start design, once, for every process and every reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayes_merger.config import ScoringConfig
from bayes_merger.run import loop
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import complete_trials, posterior_of, value_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.standards import standards
from bayes_merger.scoring.combination import Combination, Judge
from bayes_merger.scoring.scorer import Score
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import evaluator_of, make_setup, noisy, open_study, searched

ON = ScoringConfig(standardise=True)


def small(alpha: float, seed: int) -> float:
    """A scorer from 0 to 1 that hardly differs between merges."""
    return 0.5 + 0.01 * alpha


def two(**settings: Any) -> RunSetup:
    return make_setup(scorers={"one": noisy(0.5), "two": small}, scoring=ON, **settings)


def trial(first: float, second: float) -> list[Score]:
    return [Score("x", "a", 0, 0, first), Score("x", "a", 1, 0, second)]


def test_a_scale_has_the_mean_in_its_middle_and_a_standard_deviation_for_a_point() -> None:
    # the trials' means are 1, 2 and 3: mean 2, standard deviation 1
    trials = [trial(0, 2), trial(2, 2), trial(2, 4)]
    assert standards(Combination({"a": 1.0}, {"x": Judge()}), trials) == {"x": (-3.0, 7.0)}
    assert standards(Combination({"a": 1.0}, {"x": Judge(scale=(1.0, 0.0))}), trials) == {"x": (7.0, -3.0)}


def test_what_has_no_spread_keeps_its_own_scale() -> None:
    known = Combination({"a": 1.0}, {"x": Judge()})
    assert standards(known, [trial(1, 1)] * 5) == {}
    assert standards(known, [trial(0, 2), trial(2, 4)]) == {}, "two trials have no standard deviation to speak of"
    punished = Combination({"a": 1.0}, {"x": Judge(penalty=2.0)})
    assert standards(punished, [trial(0, 2), trial(2, 2), trial(2, 4)]) == {}


def test_every_trial_is_seen_on_the_scales_that_the_design_has_fixed(tmp_path: Path) -> None:
    study, notes = searched(two(), tmp_path / "study")
    fixed = study.user_attrs["standards"]
    assert sum("scores are standardised from here on" in line for line in notes.lines) == 1
    trials = complete_trials(study)
    for name in ("one", "two"):
        low, high = fixed[name]
        design = [_mean(t, name) for t in trials if t.user_attrs["phase"] == "design"]
        assert sum(design) / len(design) == pytest.approx((low + high) / 2)
    for one in trials:
        each = [10 * (_mean(one, name) - fixed[name][0]) / (fixed[name][1] - fixed[name][0]) for name in fixed]
        assert value_of(one) == pytest.approx(sum(each) / 2)
    design = [value_of(t) for t in trials if t.user_attrs["phase"] == "design"]
    assert sum(design) / len(design) == pytest.approx(5.0)
    assert [value_of(t) for t in complete_trials(load(RunFolder(tmp_path / "study")))] == [value_of(t) for t in trials]
    assert posterior_of(study).each[0].observed == value_of(trials[0])


def _mean(trial: Any, scorer: str) -> float:
    values = [score["value"] for score in trial.user_attrs["scores"] if score["scorer"] == scorer]
    return float(sum(values) / len(values))


@pytest.mark.slow
def test_a_run_that_dies_has_the_same_scales_and_values(tmp_path: Path) -> None:
    whole, _ = searched(two(), tmp_path / "whole")
    for dies_after in (10, 15, 17, 30):
        folder, notes = RunFolder(tmp_path / f"killed-{dies_after}"), RecordingReporter()
        setup = two()
        study, dying = open_study(setup, folder), evaluator_of(setup, dies_after=dies_after)
        with pytest.raises(KeyboardInterrupt):
            loop.search(setup, study, dying, folder, notes, StopSignal(notes))
        again = open_study(setup, folder)
        loop.search(setup, again, evaluator_of(setup), folder, notes, StopSignal(notes))
        assert again.user_attrs["standards"] == whole.user_attrs["standards"]
        assert [value_of(t) for t in complete_trials(again)] == [value_of(t) for t in complete_trials(whole)]


def test_several_objectives_are_standardised_each(tmp_path: Path) -> None:
    study, _ = searched(two(objectives=["one", "two"]), tmp_path / "study")
    design = [t for t in complete_trials(study) if t.user_attrs["phase"] == "design"]
    for objective in (0, 1):
        assert sum(t.values[objective] for t in design) / len(design) == pytest.approx(5.0)
    assert sum(value_of(t) for t in design) / len(design) == pytest.approx(5.0)


def test_without_the_setting_values_stay_as_they_were_told(tmp_path: Path) -> None:
    study, _ = searched(make_setup(), tmp_path / "study")
    assert "standards" not in study.user_attrs
