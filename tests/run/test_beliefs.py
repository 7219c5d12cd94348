"""The best posterior mean while a search runs: as of all trials at first, of the last full hundredth of many."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from bayes_merger.run.attributes import BELIEVED
from bayes_merger.run.beliefs import running_posterior
from bayes_merger.run.record import complete_trials, posterior_from, posterior_of

SPACE: dict[str, optuna.distributions.BaseDistribution] = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(3)}


def study_of(count: int) -> optuna.study.Study:
    study = optuna.create_study(direction="maximize")
    add(study, count)
    return study


def add(study: optuna.study.Study, count: int) -> None:
    rng = np.random.default_rng(len(study.trials))
    for point in rng.random((count, 3)):
        score = 5.0 - float(((point - 0.4) ** 2).sum()) + 0.1 * rng.standard_normal()
        params = dict(zip(SPACE, point.tolist(), strict=True))
        study.add_trial(optuna.create_trial(value=score, params=params, distributions=SPACE))


def test_up_to_two_hundred_trials_it_is_that_of_all() -> None:
    study = study_of(150)
    assert running_posterior(study).best == posterior_of(study).best
    assert BELIEVED not in study.user_attrs


def test_of_many_it_is_that_of_the_last_full_hundredth_and_kept_for_the_other_workers() -> None:
    study = study_of(305)  # three hundredths of a trial each: 303
    found = running_posterior(study)
    assert found.best == posterior_from(study, complete_trials(study)[:303]).best
    assert study.user_attrs[BELIEVED]["trials"] == 303
    study.set_user_attr(BELIEVED, {**study.user_attrs[BELIEVED], "mean": 4.25})  # as another worker would have found
    assert running_posterior(study).best.mean == 4.25  # type: ignore[union-attr]
    add(study, 1)  # 306 is full
    assert running_posterior(study).best == posterior_of(study).best
    assert study.user_attrs[BELIEVED]["trials"] == 306


@pytest.mark.parametrize("change", [{"trial": 999}, {"trial": "3"}, {"mean": "high"}, {"sd": True}, {"trials": 302}])
def test_what_no_run_writes_is_not_believed(change: dict[str, object]) -> None:
    study = study_of(305)
    found = running_posterior(study)
    study.set_user_attr(BELIEVED, {**study.user_attrs[BELIEVED], "mean": 9.0, **change})
    assert running_posterior(study) == found
