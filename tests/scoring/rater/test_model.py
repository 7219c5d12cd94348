"""The model of the rater: it recovers an opinion, knows its own error, and is checked on merges it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.scoring.rater.model import Array, cross_validate, fit


def opinions(count: int, noise: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Points on a sphere, what somebody thinks of them, and their ratings."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    truth = 5 + 3 * points[:, 0] + 2 * points[:, 1]
    return points, truth, truth + noise * rng.normal(size=count)


def test_it_predicts_what_is_meant_better_than_a_rating_says_it() -> None:
    points, truth, ratings = opinions(260, 0.8)
    model = fit(points[:200], ratings[:200])
    mean, sd = model.predict(points[200:])
    assert np.sqrt(((mean - truth[200:]) ** 2).mean()) < 0.4
    assert model.noise == pytest.approx(0.8, abs=0.2)
    assert (np.abs(mean - truth[200:]) < 2 * sd).mean() > 0.85


def test_far_from_what_it_has_seen_it_is_unsure() -> None:
    points, _, ratings = opinions(60, 0.1)
    model = fit(points, ratings)
    _, near = model.predict(points[:1])
    mean, far = model.predict(points[:1] * -20)
    assert far[0] > 5 * near[0]
    assert mean[0] == pytest.approx(model.mean)


def test_equal_ratings_are_no_trouble() -> None:
    points, _, _ = opinions(20, 0.0)
    mean, sd = fit(points, np.full(20, 7.0)).predict(points)
    assert mean == pytest.approx(np.full(20, 7.0))
    assert np.isfinite(sd).all()
    same = np.tile(points[0], (20, 1))
    assert np.isfinite(fit(same, np.arange(20.0) / 2).predict(same)[0]).all()


def test_a_check_is_on_merges_that_were_not_seen() -> None:
    points, _, ratings = opinions(200, 0.5)
    groups = [str(number // 5) for number in range(200)]
    found = cross_validate(points, ratings, groups)
    assert found is not None
    assert found.ratings == 200
    assert 0.4 < found.error < 0.75
    assert found.explained > 0.6
    assert found.inside == pytest.approx(0.95, abs=0.05)
    shuffled = cross_validate(points, np.random.default_rng(1).permutation(ratings), groups)
    assert shuffled is not None
    assert shuffled.explained < 0.1
    assert cross_validate(points[:45], ratings[:45], groups[:45]) is None
