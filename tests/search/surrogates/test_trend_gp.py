"""The Gaussian process with one length scale, with a trend and without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bayes_merger.search.space.cube import generator
from bayes_merger.search.surrogates.ensemble import evidence_of, fit_shared
from bayes_merger.search.surrogates.trend_gp import Hyperparameters, Mode, TrendGP, fit

BOTH = pytest.mark.parametrize("trend", [False, True], ids=["plain", "trend"])


def numeric(function: Any, point: np.ndarray[Any, Any]) -> list[float]:
    return [(function(point + step) - function(point - step)) / 2e-6 for step in 1e-6 * np.eye(len(point))]


def hyperparameters(trend: bool) -> Hyperparameters:
    return Hyperparameters(1.5, (0.8, 0.6, 0.4) if trend else (0.8,), 0.1)


@BOTH
@pytest.mark.parametrize("noise", [None, 0.1])
def test_the_gradient_of_the_density_is_the_numeric_one(trend: bool, noise: float | None) -> None:
    rng = generator(3)
    mode = Mode(rng.random((20, 7)), rng.standard_normal(20), trend=trend, noise=noise)
    vector = mode.start + 0.3 * rng.standard_normal(len(mode.start))
    assert mode.descent(vector)[1] == pytest.approx(numeric(lambda v: mode.descent(v)[0], vector), abs=1e-5)


@BOTH
@pytest.mark.parametrize("pending", [0, 3])
def test_the_gradients_of_mean_and_deviation_are_the_numeric_ones(trend: bool, pending: int) -> None:
    rng = generator(4)
    points, scores = rng.random((20, 7)), rng.standard_normal(20)
    scores[:pending] = np.nan
    process = TrendGP(points, scores, hyperparameters(trend))
    for x in (rng.random(7), points[5] + 0.03 * rng.standard_normal(7)):
        mean, deviation, uphill, outward = process.gradient(x)
        means, deviations = process.predict_score(x[None])
        assert (mean, deviation) == pytest.approx((means[0], deviations[0]), abs=1e-9)
        assert uphill == pytest.approx(numeric(lambda v: process.gradient(v)[0], x), abs=1e-6)
        assert outward == pytest.approx(numeric(lambda v: process.gradient(v)[1], x), abs=1e-6)


def test_the_score_is_certain_where_a_trial_has_been_and_what_the_merge_is_worth_is_not() -> None:
    rng = generator(4)
    points, scores = rng.random((20, 7)), rng.standard_normal(20)
    scores[19] = np.nan
    process = TrendGP(points, scores, hyperparameters(True))
    assert process.predict_score(points)[1] == pytest.approx(0.0, abs=1e-3)
    assert (process.predict(points[:19])[1] > 0.2).all()
    aside = points + 0.5 / np.sqrt(7)  # far from all of them
    assert process.predict_score(aside)[1] == pytest.approx(np.sqrt(process.predict(aside)[1] ** 2 + 0.1), rel=0.01)


@BOTH
def test_posterior_and_density_are_those_of_the_formulas(trend: bool) -> None:
    rng = generator(5)
    points, scores = rng.random((9, 2)), rng.standard_normal(9)
    fitted = hyperparameters(trend)
    process = TrendGP(points, scores, fitted)

    def kernel(a: Any, b: Any) -> float:
        r = np.sqrt(5.0) * np.linalg.norm(a - b) / 1.5
        matern = 0.8 * (1 + r + r**2 / 3) * np.exp(-r)
        bowl = [((p - 0.5) ** 2).sum() - 2 / 12 for p in (a, b)]
        slope = 0.6 * 12 / 2 * float((a - 0.5) @ (b - 0.5))
        return float(matern + (slope + 0.4 * 180 / 2 * bowl[0] * bowl[1] if trend else 0.0))

    covariance = np.array([[kernel(a, b) for b in points] for a in points]) + 0.1 * np.eye(9)
    x = rng.random(2)
    k = np.array([kernel(x, p) for p in points])
    mean = process.centre + k @ np.linalg.solve(covariance, scores - process.centre)
    variance = kernel(x, x) - k @ np.linalg.solve(covariance, k)
    assert [one[0] for one in process.predict(x[None])] == pytest.approx([mean, np.sqrt(variance)], abs=1e-6)
    total = 0.0
    for left in range(9):
        others = np.arange(9) != left
        pull = covariance[left, others] @ np.linalg.inv(covariance[np.ix_(others, others)])
        rest = scores[left] - process.centre - pull @ (scores[others] - process.centre)
        own = covariance[left, left] - pull @ covariance[others, left]
        total += -0.5 * np.log(2 * np.pi * own) - 0.5 * rest**2 / own
    assert process.loo_log_density == pytest.approx(total, abs=1e-5)


def test_a_trial_that_still_runs_changes_no_mean() -> None:
    rng = generator(6)
    points, scores = rng.random((20, 7)), rng.standard_normal(20)
    scores[15:] = np.nan
    whole, told = (TrendGP(points[:n], scores[:n], hyperparameters(True)) for n in (20, 15))
    x = rng.random((5, 7))
    assert whole.predict(x)[0] == pytest.approx(told.predict(x)[0], abs=1e-9)
    assert (whole.predict(x)[1] < told.predict(x)[1]).all()


def test_a_slope_is_learned_from_few_scores() -> None:
    rng = generator(7)
    points = rng.random((12, 26))
    slope = rng.standard_normal(26)
    x = rng.random((200, 26))
    mean, _ = fit_shared(evidence_of(points, points @ slope)).predict(x)
    assert np.corrcoef(mean, x @ slope)[0, 1] > 0.5


def test_known_noise_is_kept_to_and_unknown_noise_found() -> None:
    rng = generator(8)
    points = rng.random((80, 3))
    scores = np.sin(4 * points[:, 0]) + 0.5 * rng.standard_normal(80)
    scores = (scores - scores.mean()) / scores.std()
    found = fit(points, scores, trend=False, noise=None).noise
    assert found == pytest.approx(0.25 / (0.25 + np.sin(4 * points[:, 0]).var()), rel=0.3)
    assert fit(points, scores, trend=False, noise=0.01).noise < 0.1 < found
