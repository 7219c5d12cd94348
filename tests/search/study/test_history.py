"""What samplers see of a trial that was cut short."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.search.samplers import bayes, gp, tpe
from bayes_merger.search.space.cube import Array
from bayes_merger.search.study.history import ESTIMATE, as_seen
from bayes_merger.search.surrogates.noise import noise_variance_of_scores

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def trial(state: TrialState, value: float | None = None, x: float = 0.5, **attributes: object) -> FrozenTrial:
    return optuna.create_trial(
        state=state, value=value, params={"x": x, "y": 0.5}, distributions=dict(SPACE), user_attrs=attributes
    )


def test_a_trial_cut_short_is_seen_with_its_estimate_and_stays_as_it_is() -> None:
    cut = trial(TrialState.PRUNED, **{ESTIMATE: 4.5})
    seen = as_seen(cut)
    assert (seen.state, seen.value) == (TrialState.COMPLETE, 4.5)
    assert (cut.state, cut.value) == (TrialState.PRUNED, None)
    assert seen.params == cut.params


@pytest.mark.parametrize(
    "other",
    [
        trial(TrialState.PRUNED),
        trial(TrialState.PRUNED, **{ESTIMATE: float("nan")}),
        trial(TrialState.COMPLETE, 7.0, **{ESTIMATE: 4.5}),
        trial(TrialState.FAIL, **{ESTIMATE: 4.5}),
    ],
)
def test_all_others_are_seen_as_they_are(other: FrozenTrial) -> None:
    assert as_seen(other) is other


@pytest.mark.parametrize("make", [bayes, gp, tpe])
def test_samplers_learn_from_it_as_from_a_score(make: object) -> None:
    def suggestion(state: TrialState) -> dict[str, float]:
        study = optuna.create_study(direction="maximize", sampler=make(SPACE, 1))  # type: ignore[operator]
        for x, value in ((0.1, 2.0), (0.4, 5.0), (0.7, 6.0), (0.9, 3.0)):
            study.add_trial(trial(TrialState.COMPLETE, value, x))
        attributes: dict[str, object] = {ESTIMATE: 1.0} if state == TrialState.PRUNED else {}
        for x in (0.72, 0.75):
            study.add_trial(trial(state, None if attributes else 1.0, x, **attributes))
        return study.ask(dict(SPACE)).params

    assert suggestion(TrialState.PRUNED) == suggestion(TrialState.COMPLETE)


def test_luck_is_read_off_the_trials_that_have_all_pictures() -> None:
    rng = np.random.default_rng(0)

    def pictures(values: Array) -> list[dict[str, object]]:
        return [{"scorer": "s", "payload": "a", "index": i, "value": float(v)} for i, v in enumerate(values)]

    tables = [rng.normal(5.0, 1.0, 4) for _ in range(12)]
    scores = np.array([table.mean() for table in tables])
    whole = noise_variance_of_scores([pictures(table) for table in tables], scores)
    assert whole is not None
    cut = [*(pictures(table) for table in tables), pictures(np.array([1.0, 2.0])), []]
    assert noise_variance_of_scores(cut, np.append(scores, [1.5, 2.5])) == pytest.approx(whole)
