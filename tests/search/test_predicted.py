"""The merge that a search expects to be the best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bayes_merger.search.optimisers.base import Observations
from bayes_merger.search.predicted import predicted_point
from bayes_merger.search.space.cube import generator

BEST = np.array([0.3, 1.0, 0.6, 0.0, 0.5, 0.45])


def observed(count: int) -> Observations:
    """Scores up to 7 points: 7 at ``BEST``, less by ten times the squared distance, and a little noise."""
    rng = generator(3)
    points = rng.random((count, 6))
    scores = 7.0 - 10.0 * ((points - BEST) ** 2).sum(axis=1) + 0.05 * rng.standard_normal(count)
    return Observations(count, count, points, scores, np.ones(count, dtype=bool))


def test_it_lies_nearer_to_the_optimum_than_any_trial_and_its_score_is_foreseen() -> None:
    observations = observed(30)
    predicted = predicted_point(observations, 4)
    assert predicted is not None
    nearest = np.linalg.norm(observations.points - BEST, axis=1).min()
    assert np.linalg.norm(predicted.point - BEST) < 0.5 * nearest
    assert predicted.mean == pytest.approx(7.0, abs=0.3)
    assert 0.0 < predicted.sd < 0.5
    assert predicted.point == pytest.approx(BEST, abs=0.05)


def test_trials_without_a_score_and_the_seed_change_nothing_of_note() -> None:
    observations = observed(30)
    first = predicted_point(observations, 4)
    again = predicted_point(observations, 4)
    unfinished = replace(observations, scores=np.append(observations.scores[:-1], np.nan))
    others = [predicted_point(observations, 5), predicted_point(unfinished, 4)]
    assert first is not None
    assert again is not None
    assert (first.point == again.point).all()
    assert all(other is not None and np.abs(other.point - first.point).max() < 0.1 for other in others)


def test_with_few_scores_nothing_is_predicted() -> None:
    assert predicted_point(observed(7), 0) is None
    assert predicted_point(observed(8), 0) is not None


def test_scores_that_are_all_the_same_are_predicted_as_they_are() -> None:
    predicted = predicted_point(replace(observed(12), scores=np.full(12, 5.0)), 0)
    assert predicted is not None
    assert (predicted.mean, predicted.sd) == (5.0, 0.0)
