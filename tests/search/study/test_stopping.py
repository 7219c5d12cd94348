"""Rules that end a search: time worked over all sessions, and no improvement beyond the noise."""

from __future__ import annotations

from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.study.history import PHASE
from bayes_merger.search.study.stopping import PATIENT_FROM, SECONDS, Rules, read_time, reason_to_stop, worked
from bayes_merger.search.surrogates.posterior import StudyPosterior, TrialPosterior

NOON = datetime(2026, 5, 4, 12, 0, 0)
NOTHING = StudyPosterior((), 0.0, fitted=False)


def add(
    study: optuna.study.Study,
    end: float,
    seconds: float | None,
    state: TrialState = TrialState.COMPLETE,
    phase: str = "search",
) -> None:
    """A trial told ``end`` seconds after noon."""
    trial = optuna.create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs={PHASE: phase} | ({} if seconds is None else {SECONDS: seconds}),
    )
    trial.datetime_complete = NOON + timedelta(seconds=end)
    study.add_trial(trial)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("45s", 45),
        ("3600", 3600),
        (90, 90),
        ("1d", 86400),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str | float, seconds: float) -> None:
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["soon", "2x", "h", "", "-5", "0", "nan", "inf", "2h and more", "5 h 3", "1e999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="time_limit"):
        read_time(text)


def test_the_time_of_all_sessions_is_added_and_the_nights_between_are_not() -> None:
    study = optuna.create_study(direction="maximize")
    add(study, 10, 10)
    add(study, 20, 10)
    add(study, 36000, 10)  # the next morning
    assert worked(study) == pytest.approx(30)


def test_what_two_workers_do_at_once_counts_once() -> None:
    study = optuna.create_study(direction="maximize")
    add(study, 10, 10)
    add(study, 12, 10)
    add(study, 14, 2)
    assert worked(study) == pytest.approx(14)


def test_failed_and_pruned_trials_took_their_time_and_interrupted_ones_are_unknown() -> None:
    study = optuna.create_study(direction="maximize")
    add(study, 10, 10, TrialState.FAIL)
    add(study, 15, 5, TrialState.PRUNED)
    add(study, 100, None, TrialState.FAIL)
    assert worked(study) == pytest.approx(15)


def test_the_search_ends_when_another_trial_and_the_final_round_would_not_fit() -> None:
    study = optuna.create_study(direction="maximize")
    rules = Rules(seconds=100, reserve=3)
    assert reason_to_stop(study, rules, NOTHING) is None
    for number in range(6):
        add(study, 10 * (number + 1), 10)
    assert reason_to_stop(study, rules, NOTHING) is None  # 60 + 10 + 30 is just right
    add(study, 70, 10)
    reason = reason_to_stop(study, rules, NOTHING)
    assert reason is not None
    assert "1 min 10 s of 1 min 40 s are used" in reason
    assert reason_to_stop(study, Rules(seconds=200, reserve=3), NOTHING) is None  # more time: it goes on


def test_however_short_the_time_one_merge_is_judged() -> None:
    study = optuna.create_study(direction="maximize")
    assert reason_to_stop(study, Rules(seconds=0.001), NOTHING) is None
    add(study, 10, 10)
    assert reason_to_stop(study, Rules(seconds=0.001), NOTHING) is not None


def believed(means: list[float], noise: float = 0.5) -> StudyPosterior:
    return StudyPosterior(tuple(TrialPosterior(i, mean, mean, 0.1) for i, mean in enumerate(means)), noise, fitted=True)


def stalled_study(count: int, design: int = 2) -> optuna.study.Study:
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        add(study, number, 1, phase="design" if number < design else "search")
    return study


def test_patience_ends_a_search_that_gains_less_than_the_noise() -> None:
    means = [5.0, 6.0, 6.1, 6.4, 6.3]
    assert reason_to_stop(stalled_study(5), Rules(patience=3), believed(means)) is not None
    reason = reason_to_stop(stalled_study(5), Rules(patience=3), believed(means))
    assert reason is not None
    assert "last 3 trials" in reason
    assert "0.500 points" in reason


def test_patience_waits_while_there_is_a_gain_and_while_the_design_runs() -> None:
    assert reason_to_stop(stalled_study(5), Rules(patience=3), believed([5.0, 6.0, 6.1, 6.6, 6.3])) is None
    assert reason_to_stop(stalled_study(5), Rules(patience=4), believed([5.0, 6.0, 6.1, 6.4, 6.3])) is None
    assert reason_to_stop(stalled_study(5), Rules(), believed([5.0, 6.0, 6.1, 6.4, 6.3])) is None
    unknown = StudyPosterior(believed([5.0] * 5).each, 0.5, fitted=False)
    assert reason_to_stop(stalled_study(5), Rules(patience=3), unknown) is None


def test_trials_cut_short_are_no_improvement() -> None:
    study = stalled_study(3)
    for number in range(3, 6):
        add(study, number, 1, TrialState.PRUNED)
    assert reason_to_stop(study, Rules(patience=3), believed([5.0, 6.0, 6.1])) is not None


def test_who_asks_for_more_gets_at_least_that_many_more() -> None:
    study = stalled_study(5)
    study.set_user_attr(PATIENT_FROM, 5)
    means = [5.0, 6.0, 6.1, 6.1, 6.1]
    for number in range(5, 7):
        assert reason_to_stop(study, Rules(patience=3), believed(means)) is None
        add(study, number, 1)
        means.append(6.1)
    add(study, 7, 1)
    assert reason_to_stop(study, Rules(patience=3), believed([*means, 6.1])) is not None
