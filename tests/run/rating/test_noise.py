from __future__ import annotations

import random
from pathlib import Path

import pytest

from bayes_merger.config import ScoringConfig
from bayes_merger.run.folder import load
from bayes_merger.run.rating.awaiting import Answers
from bayes_merger.run.rating.noise import RaterNoise, rater_noise, score_variance
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.run.record import complete_trials, posterior_of
from bayes_merger.scoring.combination import Combination, Judge
from bayes_merger.scoring.people.rating import Rating
from bayes_merger.scoring.scorer import Score
from tests.run import fake_run
from tests.run.rating.rated import a_study, draw, rate_all


def asked_twice(*pairs: tuple[float, float]) -> Answers:
    lines = []
    for place, (first, again) in enumerate(pairs):
        lines.append(Rating(f"{place}a", "score", "c", "p", place, score=first, trial=place))
        lines.append(Rating(f"{place}b", "repeat", "c", "p", place, score=again, trial=place + 1))
    return Answers(lines)


def test_the_noise_of_one_score_is_half_of_the_differences_squared() -> None:
    found = rater_noise(asked_twice((5, 6), (7, 7), (3, 1), (8, 9), (4, 4)))
    assert found is not None
    assert found.sd == pytest.approx((6 / 10) ** 0.5)
    assert found.repeats == 5
    assert str(found) == "your scores of one picture differ by 0.8 points (standard deviation; 5 repeats)"


def test_too_few_repeats_tell_nothing() -> None:
    assert rater_noise(asked_twice((5, 6), (7, 7), (3, 1), (8, 9))) is None


def test_a_noisy_rater_is_measured_as_noisy_as_they_are() -> None:
    rng = random.Random(0)
    found = rater_noise(asked_twice(*((5 + rng.gauss(0, 0.9), 5 + rng.gauss(0, 0.9)) for _ in range(400))))
    assert found is not None
    assert found.sd == pytest.approx(0.9, rel=0.06)


def scores(*of: tuple[str, float]) -> list[Score]:
    return [Score(name, "p", place // 2, 0, value) for place, (name, value) in enumerate(of)]


@pytest.mark.parametrize(("together", "variance"), [(False, 2 * (2 / 3 / 2) ** 2 * 0.64), (True, (2 / 3) ** 2 * 0.64)])
def test_a_trial_averages_the_raters_noise_over_its_pictures(together: bool, variance: float) -> None:
    known = Combination({"p": 1.0}, {"me": Judge(2.0), "machine": Judge(1.0)})
    raw = scores(("me", 6.0), ("machine", 5.0), ("me", 3.0), ("machine", 5.0))
    assert score_variance(known, raw, "me", RaterNoise(0.8, 9), together=together) == pytest.approx(variance)


def test_nobodys_scores_are_better_than_their_rounding() -> None:
    known = Combination({"p": 1.0}, {"me": Judge()})
    for noise in (None, RaterNoise(0.0, 20)):
        assert score_variance(known, [Score("me", "p", 0, 0, 7.0)], "me", noise, together=False) == pytest.approx(
            1 / 12
        )


def test_one_picture_in_so_many_is_asked_again_hidden_among_the_others(tmp_path: Path) -> None:
    folder, setup = a_study(tmp_path, waiting=3, every=4, init_points=12, scoring=ScoringConfig(repeats=4))
    study = fake_run.open_study(setup, folder)
    repeats = []
    for _ in range(8):
        with Sitting(folder) as sitting:
            trial = sitting.trials()[0]
            places = {picture.path.parent.name for picture in trial.pictures}
            repeats.append(len(trial.pictures) - 2)
            assert len(places) == 1 + repeats[-1]
            assert len({picture.id for picture in trial.pictures}) == len(trial.pictures)
            for picture in trial.pictures:
                sitting.rate(picture.id, 5)
            sitting.confirm(trial.id)
        draw(study, setup, folder, every=4)
    assert repeats == [0, 0, 0, 1, 1, 1, 0, 1]
    assert [trial.values for trial in complete_trials(load(folder))] == [[5.0]] * 8


@pytest.mark.slow
def test_repeats_change_no_score_and_their_noise_reaches_the_search(tmp_path: Path) -> None:
    """A rater who gives 8 the first time and 5 the second; from five repeats on their scores are worth little."""
    folder, setup = a_study(tmp_path, waiting=0, init_points=14, n_iters=0, scoring=ScoringConfig(repeats=2))
    study = fake_run.open_study(setup, folder)
    for _ in range(12):
        draw(study, setup, folder, every=2)
        with Sitting(folder) as sitting:
            (trial,) = sitting.trials()
            newest = max(picture.path.parent.name for picture in trial.pictures)
            for picture in trial.pictures:
                sitting.rate(picture.id, 8 if picture.path.parent.name == newest else 5)
            sitting.confirm(trial.id)
            sd = sitting.state().sd
    trials = complete_trials(load(folder))
    assert {trial.values[0] for trial in trials} == {8.0}
    variances = [trial.user_attrs["score_variance"] for trial in trials]
    assert variances[0] == pytest.approx(1 / 12 / 2)
    assert sd == pytest.approx((9 / 2) ** 0.5)
    assert variances[-1] == pytest.approx(9 / 2 / 2)
    assert posterior_of(load(folder)).noise == pytest.approx((9 / 4) ** 0.5)


def test_a_trial_that_was_rated_as_a_whole_is_not_believed_without_noise(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=4, scoring=ScoringConfig(unit="trial"))
    rate_all(folder, [3, 5, 6, 4])
    assert posterior_of(load(folder)).noise == pytest.approx((1 / 12) ** 0.5)
