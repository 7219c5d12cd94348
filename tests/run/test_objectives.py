"""Several objectives: the Pareto front instead of one best, from start-up to the final round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bayes_merger.config import FinalConfig, RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.report import summary as report
from bayes_merger.report.best import write_best
from bayes_merger.run.final import candidates, decide, spread_over_front
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.objectives import check_objectives, objective_values
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import (
    chosen_trial,
    complete_trials,
    front_of,
    objectives_of,
    recipe_of,
    trial_of,
    value_of,
)
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.combination import Combination, Judge
from bayes_merger.scoring.scorer import Score
from tests.run.fake_run import evaluator_of, make_setup, open_study, searched

BOTH = {
    "first": lambda alpha, seed: 5.0 - 4.0 * (alpha - 0.2) ** 2 + 0.001 * (seed % 7),
    "second": lambda alpha, seed: 5.0 - 4.0 * (alpha - 0.8) ** 2 + 0.001 * (seed % 5),
}


def config(*objectives: str, **settings: object) -> RunConfig:
    return RunConfig(model_a="a", model_b="b", objectives=list(objectives), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (config("first", "secnd"), "no scorer 'secnd' is chosen; did you mean second"),
        (config("first"), "first alone is one"),
        (config("first", "first"), "first is there twice"),
        (config("first", "second", patience=5), "patience"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(settings: RunConfig, words: str) -> None:
    scorers = make_setup(scorers=BOTH).scorers
    with pytest.raises(ConfigError) as error:
        check_objectives(settings, scorers)
    assert words in str(error.value)


def test_each_objective_is_its_scorer_s_mean_over_the_payloads() -> None:
    scores = [
        Score("x", "a", 0, 0, 2.0),
        Score("x", "b", 0, 0, 6.0),
        Score("y", "a", 0, 0, 0.1),
        Score("y", "b", 0, 0, 0.3),
    ]
    both = Combination({"a": 1.0, "b": 3.0}, {"x": Judge(), "y": Judge(0.0, (0.0, 0.5))})
    assert objective_values(scores, both, ["y", "x"]) == (5.0, 5.0)
    assert objective_values(scores, both, []) == ()


def test_an_objective_is_judged_on_the_payloads_of_its_scorer_alone() -> None:
    scores = [Score("x", "a", 0, 0, 2.0), Score("x", "b", 0, 0, 6.0), Score("y", "a", 0, 0, 9.0)]
    scores.append(Score("y", "b", 0, 0, 3.0))
    parted = Combination({"a": 1.0, "b": 3.0}, {"x": Judge(), "y": Judge(payloads={"b": 0.5})})
    assert objective_values(scores, parted, ["x", "y"]) == (5.0, 3.0)


def test_a_front_is_found_and_its_members_beat_each_other_nowhere(tmp_path: Path) -> None:
    parts = make_setup(scorers=BOTH, objectives=["first", "second"], n_iters=16)
    study, notes = searched(parts, tmp_path / "s")
    assert objectives_of(study) == ["first", "second"]
    front = front_of(study)
    assert len(front) >= 4
    assert [trial.values[0] for trial in front] == sorted((trial.values[0] for trial in front), reverse=True)
    for trial in front:
        assert 0.15 < trial.params["BASE.alpha"] < 0.85
        assert value_of(trial) == pytest.approx(sum(trial.values) / 2)  # the weighted sum, for single numbers
        for other in complete_trials(study):
            assert other.values[0] <= trial.values[0] or other.values[1] <= trial.values[1]
    assert notes.reports[-1].front == len(front)
    best = chosen_trial(study)
    assert best.number in [trial.number for trial in front]
    assert value_of(best) == max(value_of(trial) for trial in complete_trials(study))
    assert recipe_of(study, trial_of(study, front[0].number)).weights["alpha"]["M00"] == front[0].params["BASE.alpha"]


def test_the_members_drawn_again_are_spread_over_the_front() -> None:
    values = [(9.0, 1.0), (8.9, 1.1), (8.8, 1.2), (5.0, 5.5), (1.2, 8.8), (1.0, 9.0)]
    sums = [sum(pair) for pair in values]
    assert spread_over_front(values, sums, 9) == [0, 1, 2, 3, 4, 5]
    assert spread_over_front(values, sums, 3) == [0, 3, 5]
    assert spread_over_front(values, sums, 1) == [3]
    assert spread_over_front(values, sums, 0) == []
    assert len(spread_over_front(values, sums, 5)) == 5


def test_the_front_is_scored_on_fresh_seeds_with_its_errors(tmp_path: Path) -> None:
    parts = make_setup(scorers=BOTH, objectives=["first", "second"], n_iters=16, final=FinalConfig(rescore=4, images=3))
    study, notes = searched(parts, tmp_path / "s")
    evaluator = evaluator_of(parts)
    final = decide(parts, study, evaluator, notes, StopSignal(notes))
    assert [one.trial for one in final.rescored] == candidates(study, 4)
    fresh = {seed for _, _, seed in evaluator.drawn}
    assert not fresh & {seed for payload in parts.payloads for seed in payload.seeds}
    for one in final.rescored:
        trial = trial_of(study, one.trial)
        assert one.objectives == pytest.approx(trial.values, abs=0.01)
        assert all(error is not None and 0 < error < 0.01 for error in one.objective_errors)
        assert one.mean == pytest.approx(sum(one.objectives) / 2)
    assert final.winner == max(final.rescored, key=lambda one: one.mean).trial
    study.set_user_attr("final", final.to_json())
    rows = report.front_data(study, objectives_of(study))
    assert [row["trial"] for row in rows if "fresh" in row] == [one.trial for one in final.rescored]
    json.dumps(report.summary(study), allow_nan=False)
    json.dumps(report.trials_data(study), allow_nan=False)


def test_every_member_is_taken_home(tmp_path: Path) -> None:
    parts = make_setup(scorers=BOTH, objectives=["first", "second"])
    folder = RunFolder(tmp_path / "s")
    study, _ = searched(parts, folder.path)
    (folder.best / "front" / "9999").mkdir(parents=True)  # of an earlier, shorter search
    write_best(study, folder)
    members = sorted(path.name for path in (folder.best / "front").iterdir())
    assert members == sorted(f"{trial.number:04d}" for trial in front_of(study))
    for name in members:
        own = folder.best / "front" / name
        assert {path.name for path in own.iterdir()} == {
            "recipe.json", "weights.txt", "p0-0.png", "p0-1.png", "p1-0.png", "p1-1.png",
        }  # fmt: skip
    assert (folder.best / "front.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_killed_search_of_several_objectives_goes_on(tmp_path: Path) -> None:
    def parts() -> RunSetup:
        return make_setup(scorers=BOTH, objectives=["first", "second"])

    whole, _ = searched(parts(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        searched(parts(), tmp_path / "killed", evaluator_of(parts(), dies_after=21))
    killed, _ = searched(parts(), tmp_path / "killed")
    assert [(t.params, t.values) for t in complete_trials(killed)] == [
        (t.params, t.values) for t in complete_trials(whole)
    ]


def test_a_study_of_one_number_has_no_objectives(tmp_path: Path) -> None:
    parts = make_setup()
    study = open_study(parts, RunFolder(tmp_path / "s"))
    assert objectives_of(study) == []
    assert len(study.directions) == 1
