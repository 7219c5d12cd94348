"""Trials that other programs have put into a study are completed or left out; odd attributes are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bayes_merger.run.record import chosen_trial, complete_trials, left_out, posterior_of
from bayes_merger.search import samplers
from bayes_merger.search.space.building import build_space
from bayes_merger.search.study.alive import recover
from bayes_merger.search.study.checked import CheckedStudy, checked, reads_once
from bayes_merger.search.study.fork import inheritance
from bayes_merger.search.study.study import ask, create_study, finished, load_study, open_storage, tell
from bayes_merger.search.study.workers import Worker

SPACE = build_space(("BASE", "IN00"), {"alpha": (0.0, 1.0)})
WHOLE = {"BASE.alpha": 0.25, "IN00.alpha": 0.5}


@pytest.fixture
def study(tmp_path: Path) -> CheckedStudy:
    """One trial of its own, of 5 points."""
    storage = open_storage(tmp_path / "study.db")
    create_study(storage, "s", samplers.random(SPACE.distributions(), 0), space=SPACE, fingerprint={}, design=[WHOLE])
    found = load_study(storage, "s", samplers.structured(SPACE.distributions(), 0))
    tell(found, ask(found, SPACE), 5.0)
    return found


def plain(study: CheckedStudy) -> optuna.study.Study:
    """The study as any Optuna program has it."""
    return optuna.load_study(study_name="s", storage=study._storage)


def strange(values: dict[str, Any] | None = None, score: float = 9.0, **attributes: Any) -> optuna.trial.FrozenTrial:
    values = WHOLE if values is None else values

    def distribution(value: Any) -> optuna.distributions.BaseDistribution:
        if isinstance(value, str):
            return CategoricalDistribution([value])
        return IntDistribution(0, 9) if isinstance(value, int) else FloatDistribution(-9.0, 9.0)

    return optuna.create_trial(
        value=score, params=values, distributions={k: distribution(v) for k, v in values.items()},
        user_attrs=attributes,
    )  # fmt: skip


@pytest.mark.parametrize("values", [WHOLE, WHOLE | {"learning_rate": 0.1}], ids=["all", "more"])
def test_a_trial_with_all_values_is_completed(study: CheckedStudy, values: dict[str, Any]) -> None:
    plain(study).add_trial(strange(values))
    taken = chosen_trial(study)
    assert (taken.number, taken.value) == (1, 9.0)
    assert taken.user_attrs["weights"] == {"alpha": {"BASE": values["BASE.alpha"], "IN00": values["IN00.alpha"]}}
    assert taken.distributions == SPACE.distributions()
    assert [t.params for t in inheritance(study, SPACE).trials] == [
        WHOLE, {name: values[name] for name in WHOLE}
    ]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("values", "score", "why"),
    [
        ({"IN00.alpha": 0.5}, 9.0, "BASE.alpha has no value"),
        ({}, 9.0, "BASE.alpha has no value"),
        (WHOLE | {"IN00.alpha": 7.5}, 9.0, "outside 0 ... 1"),
        (WHOLE, float("inf"), "its score is inf"),
        (WHOLE, 1e308, "its score is 1e"),
    ],
)
def test_a_trial_that_cannot_be_completed_is_left_out_with_the_reason(
    study: CheckedStudy, values: dict[str, Any], score: float, why: str
) -> None:
    plain(study).add_trial(strange(values, score))
    assert why in study.left_out()[1]
    assert "left out: trial 1" in left_out(study)
    assert chosen_trial(study).number == 0
    assert finished(study) == 1
    assert study.best_trials[0].number == 0
    assert inheritance(study, SPACE).left_out == {}


def test_what_others_do_to_a_study_does_not_stop_it(study: CheckedStudy) -> None:
    other = plain(study)
    other.optimize(lambda trial: trial.suggest_float("IN00.alpha", 0, 1), n_trials=1)
    other.ask({"IN00.alpha": FloatDistribution(0, 1)})  # and never told
    other.enqueue_trial({"IN00.alpha": 0.5})
    other.enqueue_trial({"colour": "red"})
    other.tell(other.ask().number, state=optuna.trial.TrialState.PRUNED)
    recover(study)
    with Worker(study, SPACE) as worker:
        while (trial := worker.claim(6)) is not None:
            worker.tell(trial, 5.0)
    assert finished(study) == 6
    assert all(set(t.params) == set(WHOLE) for t in complete_trials(study))


def test_a_trial_that_another_program_has_running_is_not_waited_for(study: CheckedStudy) -> None:
    plain(study).ask()
    with Worker(study, SPACE) as worker:
        trial = worker.claim(2)
        assert trial is not None
        worker.tell(trial, 5.0)
        assert worker.claim(2) is None
    assert finished(study) == 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "attributes",
    [
        {"weights": {"alpha": {"BASE": "x"}}}, {"weights": 7}, {"weights": {"beta": {"IN00": 0.5}}}, {"scores": 3},
        {"scores": [{"scorer": "a"}]}, {"images": "x"}, {"points": "x"}, {"phase": 3}, {"row": "x"}, {"seconds": "x"},
        {"seconds": -1}, {"reason": [1]}, {"estimate": "x"}, {"worker": {"id": "../../x"}}, {"origin": "x"},
        {"origin": -1}, {"retry_of": []}, {"deaths": None},
    ],
)  # fmt: skip
def test_an_attribute_that_no_run_writes_is_missing(study: CheckedStudy, attributes: dict[str, Any]) -> None:
    plain(study).add_trial(strange(**attributes))
    (name,) = attributes
    trial = study.get_trials()[1]
    assert trial.user_attrs.get(name) == ({"alpha": {"BASE": 0.25, "IN00": 0.5}} if name == "weights" else None)
    assert posterior_of(study).best_observed.trial == 1  # type: ignore[union-attr]


def test_a_number_of_trial_is_never_given_twice(study: CheckedStudy) -> None:
    for _ in range(3):
        plain(study).add_trial(strange({}))
    with Worker(study, SPACE) as worker:
        for number in (4, 5):
            trial = worker.claim(9)
            assert trial is not None
            assert trial.number == number
            worker.tell(trial, 5.0)
    assert len({tuple(t.params.values()) for t in complete_trials(study)}) == 3


def test_values_of_another_kind_are_numbers_or_nothing() -> None:
    whole = checked(strange({"BASE.alpha": 1, "IN00.alpha": 0}), SPACE, 1)
    assert isinstance(whole, optuna.trial.FrozenTrial)
    assert whole.user_attrs["weights"] == {"alpha": {"BASE": 1.0, "IN00": 0.0}}
    assert isinstance(checked(strange(WHOLE | {"IN00.alpha": "x"}), SPACE, 1), str)


def test_who_only_looks_sees_the_study_as_it_was(study: CheckedStudy) -> None:
    @reads_once
    def look(seen: optuna.study.Study) -> tuple[Any, int, Any, int]:
        before = seen.user_attrs.get("note"), len(seen.get_trials(deepcopy=False))
        seen.set_user_attr("note", "later")
        plain(study).add_trial(strange())
        return *before, seen.user_attrs.get("note"), len(seen.get_trials(deepcopy=False))

    note, count, note_after, count_after = look(study)
    assert (note, count) == (note_after, count_after) == (None, count)
    assert study.user_attrs["note"] == "later"
    assert len(study.get_trials(deepcopy=False)) == count + 1
