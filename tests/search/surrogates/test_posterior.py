"""The posterior mean: how much of a score is luck, and what is left of the lucky ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.grid_gp import Settings, exact, posterior, sparse
from bayes_merger.search.surrogates.noise import noise_variance
from bayes_merger.search.surrogates.posterior import StudyPosterior, TrialPosterior, study_posterior


def trials_at(points: Array, scores: Sequence[float]) -> list[FrozenTrial]:
    space: dict[str, BaseDistribution] = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(points.shape[1])}
    trials = []
    for number, (point, score) in enumerate(zip(points.tolist(), scores, strict=True)):
        params = dict(zip(space, point, strict=True))
        trial = optuna.create_trial(value=float(score), params=params, distributions=space)
        trial.number = number
        trials.append(trial)
    return trials


def test_luck_is_what_neither_the_merge_nor_the_seed_explains() -> None:
    pictures = [{("a", 0): 1.0, ("a", 1): 3.0}, {("a", 0): 2.0, ("a", 1): 2.0}]
    # means of trials 2 and 2, of seeds 1.5 and 2.5: residuals of 0.5 each, one degree of freedom, two pictures
    assert noise_variance(pictures) == pytest.approx(0.5)
    shifted = [{image: value + 10 * (image == ("a", 1)) + 3 * row for image, value in own.items()}
               for row, own in enumerate(pictures)]  # fmt: skip
    assert noise_variance(shifted) == pytest.approx(0.5)


def test_that_a_merge_suits_one_prompt_better_is_no_luck() -> None:
    suits_a = {("a", 0): 9.0, ("a", 1): 9.0, ("b", 0): 1.0, ("b", 1): 1.0}
    suits_b = {("a", 0): 1.0, ("a", 1): 1.0, ("b", 0): 9.0, ("b", 1): 9.0}
    assert noise_variance([suits_a, suits_b]) == 0.0


def test_with_one_picture_for_each_prompt_it_cannot_be_told_apart_and_counts_as_luck() -> None:
    assert noise_variance([{("a", 0): 9.0, ("b", 0): 1.0}, {("a", 0): 1.0, ("b", 0): 9.0}]) == pytest.approx(32.0)


def test_noise_needs_two_trials_of_two_shared_pictures() -> None:
    assert noise_variance([]) is None
    assert noise_variance([{("a", 0): 1.0, ("a", 1): 3.0}]) is None
    assert noise_variance([{("a", 0): 1.0}, {("a", 0): 2.0}]) is None
    assert noise_variance([{("a", 0): 1.0, ("a", 1): 2.0}, {("b", 0): 1.0, ("b", 1): 2.0}]) is None


def test_a_lucky_score_among_sober_neighbours_is_not_the_best() -> None:
    line = np.linspace(0.0, 1.0, 21)[:, None]
    scores = 10 - 8 * (line[:, 0] - 0.7) ** 2
    scores[4] += 4.0  # at 0.2: true value 8, seen as 12
    found = study_posterior(trials_at(line, scores.tolist()), scores.tolist())
    assert found.fitted
    assert found.best_observed is not None
    assert found.best is not None
    assert found.best_observed.trial == 4
    assert 0.6 <= line[found.best.trial, 0] <= 0.8
    assert found.each[4].mean < 9.5
    assert found.each[4].observed == 12.0


def test_without_noise_every_score_is_believed() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((30, 4))
    scores = -((points - 0.5) ** 2).sum(axis=1)
    pictures = [{("a", 0): value, ("a", 1): value} for value in scores]
    found = study_posterior(trials_at(points, scores.tolist()), scores.tolist(), pictures)
    assert found.noise == pytest.approx(0.0, abs=1e-12)
    for one in found.each:
        assert one.mean == pytest.approx(one.observed, abs=1e-3)
        assert one.sd < 1e-3
    assert found.best is not None
    assert found.best.observed == scores.max()


def test_a_few_trials_and_parameters_that_are_no_plain_numbers_are_believed_as_scored() -> None:
    few = trials_at(np.random.default_rng(0).random((7, 3)), [1.0, 7.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = study_posterior(few, [trial.value or 0.0 for trial in few])
    assert not found.fitted
    assert found.best == TrialPosterior(1, 7.0, 7.0, 0.0)
    whole = [
        optuna.create_trial(value=float(i), params={"n": i}, distributions={"n": IntDistribution(0, 20)})
        for i in range(12)
    ]
    assert not study_posterior(whole, [float(i) for i in range(12)]).fitted
    assert study_posterior([], []) == StudyPosterior((), 0.0, fitted=False)
    assert study_posterior([], []).best is None


def test_equal_scores_have_an_equal_posterior() -> None:
    found = study_posterior(trials_at(np.random.default_rng(0).random((12, 3)), [5.0] * 12), [5.0] * 12)
    assert {one.mean for one in found.each} == {5.0}


def test_hundreds_of_scores_through_some_of_their_points_say_what_all_of_them_say() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((150, 6)), np.clip(0.4 + 0.15 * rng.standard_normal((650, 6)), 0, 1)])
    truth = -((points - 0.4) ** 2).sum(axis=1)
    truth = (truth - truth.mean()) / truth.std()
    scores = truth + 0.5 * rng.standard_normal(800)
    means, variances = sparse(points, scores, Settings(1.5, 1.0, 0.25))
    all_means, all_variances = exact(points, scores, Settings(1.5, 1.0, 0.25))
    assert np.abs(means - all_means).max() < 0.1  # of scores with noise of 0.5
    assert np.allclose(np.sqrt(variances), np.sqrt(all_variances), rtol=0.2)
    mean, sd, _ = posterior(points, scores, 0.25)
    assert truth[mean.argmax()] > truth.max() - 0.05
    assert abs(float(np.mean(((mean - truth) / sd) ** 2)) - 1.0) < 0.5


def test_the_same_merge_many_times_is_one_point() -> None:
    points = np.repeat(np.random.default_rng(0).random((5, 3)), 100, axis=0)
    scores = np.tile([-1.0, 1.0], 250)
    mean, sd, _ = posterior(points, scores, 1.0)
    assert np.abs(mean).max() < 0.1
    assert 0.0 < sd.max() < 0.15


def test_the_candidates_are_the_best_means_and_the_best_observed() -> None:
    found = StudyPosterior(
        (
            TrialPosterior(0, 9.0, 5.0, 1.0),
            TrialPosterior(1, 7.0, 7.0, 1.0),
            TrialPosterior(2, 6.0, 6.0, 1.0),
            TrialPosterior(3, 8.0, 6.5, 1.0),
        ),
        noise=1.0,
        fitted=True,
    )
    assert found.candidates(3) == [1, 3, 0]
    assert found.candidates(2) == [1, 0]
    assert found.candidates(1) == [1]
    assert found.candidates(9) == [1, 3, 2, 0]
    assert found.candidates(0) == []


def search_like(rng: np.random.Generator, noise: float) -> tuple[Array, Array, Array]:
    """Points of 26 weights as a search leaves them, their true scores, and the scores seen."""
    best, curvature = rng.uniform(0.15, 0.85, 26), rng.exponential(1.0, 26)

    def truth(points: Array) -> Array:
        heights: Array = -((points - best) ** 2 * curvature).sum(axis=-1)
        return heights

    spread = truth(rng.random((2000, 26))).std()
    points: list[Array] = []
    seen: list[float] = []
    for index in range(60):
        point = rng.random(26)
        if index >= 30:
            good = points[int(np.argsort(seen)[-1 - rng.integers(5)])]
            point = np.clip(good + 0.15 * rng.standard_normal(26), 0, 1)
        points.append(point)
        seen.append(float(truth(point)) / spread + noise * rng.standard_normal())
    return np.array(points), truth(np.array(points)) / spread, np.array(seen)


@pytest.mark.slow
def test_the_best_posterior_mean_is_on_average_a_better_choice_than_the_best_score() -> None:
    """Regret against the best of the trials, in standard deviations of a random point's score; 200 searches."""
    noise = 0.3
    observed, believed = [], []
    for seed in range(200):
        points, truth, seen = search_like(np.random.default_rng(seed), noise)
        halves = np.random.default_rng(1000 + seed).standard_normal(60) * noise  # two pictures whose mean is `seen`
        pictures = [{("a", 0): s + h, ("a", 1): s - h} for s, h in zip(seen.tolist(), halves.tolist(), strict=True)]
        best = study_posterior(trials_at(points, seen.tolist()), seen.tolist(), pictures).best
        assert best is not None
        observed.append(truth.max() - truth[seen.argmax()])
        believed.append(truth.max() - truth[best.trial])
    lead = np.array(observed) - np.array(believed)
    assert np.mean(believed) < 0.85 * np.mean(observed)
    assert lead.mean() > 2 * lead.std(ddof=1) / np.sqrt(200)
