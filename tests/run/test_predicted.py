"""The last trial of a search: the merge that its scores predict to be the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bayes_merger.config import FinalConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run import loop
from bayes_merger.run.final import candidates, decide, final_round_trials
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.predicted import last_suggestion, predicted_recipe, prediction_of, waits
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import complete_trials
from bayes_merger.run.setup import RunSetup
from bayes_merger.search.study.history import PHASE, PREDICTED
from bayes_merger.search.study.stopping import STOPPED
from bayes_merger.testing.evaluator import FakeEvaluator
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import evaluator_of, make_setup, open_study, searched


def bowl(alpha: float, seed: int) -> float:
    return 8.0 - 10.0 * (alpha - 0.37) ** 2


def setup_of(n_iters: int = 8, **settings: Any) -> RunSetup:
    settings.setdefault("final", FinalConfig(rescore=2, images=2, predicted=True))
    return make_setup(scorers={"one": bowl}, n_iters=n_iters, **settings)


def phases(study: optuna.study.Study) -> list[str]:
    return [trial.user_attrs[PHASE] for trial in complete_trials(study)]


def points(study: optuna.study.Study) -> list[float]:
    return [trial.params["BASE.alpha"] for trial in complete_trials(study)]


def search(setup: RunSetup, path: Path, evaluator: FakeEvaluator) -> optuna.study.Study:
    notes = RecordingReporter()
    study = open_study(setup, RunFolder(path))
    loop.search(setup, study, evaluator, RunFolder(path), notes, StopSignal(notes))
    return study


def test_the_last_trial_of_the_budget_is_where_the_most_is_expected(tmp_path: Path) -> None:
    study, notes = searched(setup_of(), tmp_path / "s")
    assert phases(study) == ["design"] * 4 + ["search"] * 7 + [PREDICTED]
    assert abs(points(study)[-1] - 0.37) < 0.02  # the optimiser is `random`
    assert "the last trial is the merge of which the model expects the most: 8.0" in notes.lines[0]
    assert waits(study) == 0
    without, _ = searched(setup_of(final=FinalConfig(rescore=2, images=2)), tmp_path / "without")
    assert phases(without) == ["design"] * 4 + ["search"] * 8
    assert points(without)[:11] == points(study)[:11]


@pytest.mark.slow
def test_a_killed_search_predicts_the_same(tmp_path: Path) -> None:
    whole, _ = searched(setup_of(), tmp_path / "whole")
    for dies_after in (42, 45):  # pictures, of which a trial has four: in the last but one and in the last
        path = tmp_path / str(dies_after)
        with pytest.raises(KeyboardInterrupt):
            search(setup_of(), path, evaluator_of(setup_of(), dies_after=dies_after))
        study = search(setup_of(), path, evaluator_of(setup_of()))
        assert points(study) == points(whole)
        assert phases(study) == phases(whole)


@pytest.mark.slow
def test_killed_before_it_was_drawn_it_waits(tmp_path: Path) -> None:
    whole, _ = searched(setup_of(), tmp_path / "whole")
    searched(setup_of(7, final=FinalConfig()), tmp_path / "s")
    study = open_study(setup_of(), RunFolder(tmp_path / "s"))
    suggest = last_suggestion(study, lambda text: None)
    assert suggest(11) is None
    assert suggest(13) is None
    last = suggest(12)
    assert last is not None
    study.add_trial(last)
    assert waits(study) == 12
    assert suggest(12) is None
    searched(setup_of(), tmp_path / "s")
    assert points(study) == points(whole)


def test_it_takes_part_in_the_final_round_whatever_it_scored(tmp_path: Path) -> None:
    setup = setup_of()
    drawn: list[int] = []

    def bad_at_last(weights: Any, payload: str, seed: int) -> float:
        drawn.append(seed)
        return bowl(weights["alpha"]["BASE"], seed) if len(drawn) <= 44 else 1.0  # the last trial's four pictures

    evaluator = FakeEvaluator({"one": bad_at_last})
    study = search(setup, tmp_path / "s", evaluator)
    assert complete_trials(study)[-1].value == 1.0
    assert candidates(study, 2)[-1] == 11
    assert len(candidates(study, 2)) == 3
    notes = RecordingReporter()
    evaluator = evaluator_of(setup)
    final = decide(setup, study, evaluator, notes, StopSignal(notes))
    assert [one.trial for one in final.rescored] == candidates(study, 2)
    assert len(evaluator.drawn) == (3 + 4) * 2 * 2 == final_round_trials(setup) * 4
    assert candidates(study, 0) == []


@pytest.mark.slow
def test_a_final_round_killed_over_it_ends_the_same(tmp_path: Path) -> None:
    setup = setup_of()
    study, notes = searched(setup, tmp_path / "s")
    other, _ = searched(setup, tmp_path / "other")
    whole = decide(setup, other, evaluator_of(setup), notes, StopSignal(notes))
    with pytest.raises(KeyboardInterrupt):
        decide(setup, study, evaluator_of(setup, dies_after=10), notes, StopSignal(notes))  # in the third of them
    assert (
        decide(setup, open_study(setup, RunFolder(tmp_path / "s")), evaluator_of(setup), notes, StopSignal(notes))
        == whole
    )


@pytest.mark.slow
def test_more_trials_later_end_with_another_unless_it_is_the_same(tmp_path: Path) -> None:
    searched(setup_of(), tmp_path / "s")
    study, _ = searched(setup_of(12), tmp_path / "s")
    assert phases(study)[11:] == [PREDICTED, "search", "search", "search", "search"]
    assert prediction_of(study).tried  # type: ignore[union-attr]
    assert candidates(study, 1)[-1] == 11
    changed = make_setup(scorers={"one": lambda alpha, seed: 50.0 * alpha}, n_iters=15,
                         final=FinalConfig(rescore=2, images=2, predicted=True))  # fmt: skip
    study, _ = searched(changed, tmp_path / "s")  # what is best has moved
    assert phases(study)[16:] == ["search", "search", PREDICTED]


@pytest.mark.slow
def test_a_search_that_ends_early_draws_it_after_all(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_iters": 40, "patience": 6}
    study, _ = searched(setup_of(**settings), tmp_path / "s")
    assert study.user_attrs[STOPPED].startswith("patience: ")
    assert phases(study)[-2:] == ["search", PREDICTED]
    assert len(phases(study)) < 40
    count = len(phases(study))
    again = evaluator_of(setup_of(**settings))
    search(setup_of(**settings), tmp_path / "s", again)
    study.set_user_attr(STOPPED, None)  # as resume does, which finds again that it is over
    search(setup_of(**settings), tmp_path / "s", again)
    assert len(phases(study)) == count
    assert again.drawn == []


def test_one_that_cannot_be_drawn_is_not_tried_again(tmp_path: Path) -> None:
    setup = setup_of()
    drawn: list[float] = []

    def fails(weights: Any, baseline: Any) -> str:
        drawn.append(weights["alpha"]["BASE"])
        return "black" if len(drawn) == 12 else ""

    study = search(setup, tmp_path / "s", evaluator_of(setup, fails=fails))
    assert [trial.number for trial in study.get_trials() if trial.state == TrialState.FAIL] == [11]
    assert phases(study) == ["design"] * 4 + ["search"] * 8


def test_there_is_none_of_several_objectives_or_few_scores(tmp_path: Path) -> None:
    two = make_setup(scorers={"one": bowl, "two": bowl}, objectives=["one", "two"], n_iters=8,
                     final=FinalConfig(predicted=True))  # fmt: skip
    study, _ = searched(two, tmp_path / "two")
    assert PREDICTED not in phases(study)
    assert prediction_of(study) is None
    with pytest.raises(ConfigError, match="--predicted: study 'two' has several objectives"):
        predicted_recipe(study)
    few, _ = searched(setup_of(2), tmp_path / "few")
    assert phases(few) == ["design"] * 4 + ["search"] * 2
    with pytest.raises(ConfigError, match="has too few scores"):
        predicted_recipe(few)


def test_its_recipe_says_that_it_was_not_drawn(tmp_path: Path) -> None:
    study, _ = searched(setup_of(final=FinalConfig()), tmp_path / "s")
    recipe = predicted_recipe(study)
    assert abs(recipe.weights["alpha"]["IN00"] - 0.37) < 0.02
    assert recipe.note.startswith("predicted by study s from 12 trials to get 8.0")
    assert recipe.note.endswith("and not drawn by it")
    assert MergeRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
