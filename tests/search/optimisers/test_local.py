"""The two methods with a state, a cloud and a trust region: both are worked out from the history alone."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.search.optimisers.base import Observations
from bayes_merger.search.optimisers.cma import Evolution, beginning, cma_proposal
from bayes_merger.search.optimisers.turbo import Region, candidates, region_length
from bayes_merger.search.space.cube import Array, generator
from bayes_merger.search.surrogates.ard_gp import ArdGP

REGION = Region(length=0.8, successes=3, failures=4, candidates=200)


def observations(points: Array, scores: list[float], searched: list[bool]) -> Observations:
    return Observations(len(scores), sum(searched), points, np.array(scores), np.array(searched, dtype=bool))


def length_after(*scores: float, design: int = 1) -> float:
    searched = np.arange(len(scores)) >= design
    return region_length(np.array(scores), searched, REGION)


def test_a_region_doubles_after_three_improvements_and_halves_after_four_failures() -> None:
    assert length_after(0.0) == 0.8
    assert length_after(0.0, 1.0, 2.0) == 0.8
    assert length_after(0.0, 1.0, 2.0, 3.0) == 1.6
    assert length_after(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0) == 1.6  # no longer than that
    assert length_after(0.0, *[-1.0] * 3) == 0.8
    assert length_after(0.0, *[-1.0] * 4) == 0.4
    assert length_after(0.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0) == 0.8  # an improvement between starts the count anew


def test_rows_of_the_start_design_neither_succeed_nor_fail() -> None:
    assert length_after(0.0, *[-1.0] * 9, design=10) == 0.8
    assert length_after(5.0, 1.0, 2.0, 3.0) == 0.8


def test_a_region_that_has_shrunk_to_nothing_begins_again() -> None:
    lengths = [length_after(0.0, *[-1.0] * count) for count in range(0, 32, 4)]
    assert lengths == [0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.8]


def test_candidates_lie_around_the_best_posterior_mean_and_may_lie_on_the_border() -> None:
    points = np.vstack([np.full((1, 30), 0.95), generator(1).random((9, 30))])
    process = ArdGP(points, np.array([2.0, *[-0.2] * 9]), np.full(30, 3.0), 0.01)
    found = candidates(process, 0.4, 200, generator(2))
    assert found.shape == (200, 30)
    assert np.abs(found - 0.95).max() <= 0.2 + 1e-9
    assert (found == 1.0).any()
    assert ((found != 0.95).sum(axis=1) >= 1).all()
    assert (found != 0.95).mean() == pytest.approx(20 / 30, abs=0.05)


def test_the_centre_is_not_a_point_of_a_wider_space() -> None:
    points = np.array([[1.5, 0.5], [0.25, 0.25]])
    process = ArdGP(points, np.array([2.0, 1.0]), np.ones(2), 0.01)
    assert np.abs(candidates(process, 0.1, 50, generator(2)) - 0.25).max() <= 0.05 + 1e-9


def test_a_cloud_begins_between_the_better_half_of_the_design() -> None:
    points = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.5, 0.5]])
    given = observations(points, [4.0, 3.0, 1.0, 2.0, 9.0], [False] * 4 + [True])
    start = beginning(given)
    first, second = np.log(2.5), np.log(2.5) - np.log(2.0)
    assert start == pytest.approx((first * points[0] + second * points[1]) / (first + second))
    assert beginning(observations(points[:3], [4.0, 3.0, 1.0], [False] * 3)).tolist() == [0.5, 0.5]


def test_a_cloud_walks_uphill() -> None:
    propose, goal = cma_proposal(Evolution(sigma=0.2, population=8, warm_start=True)), np.full(5, 0.8)
    points: list[Array] = []
    scores: list[float] = []
    for _ in range(160):
        known = observations(np.array(points).reshape(-1, 5), scores, [True] * len(scores))
        points.append(propose(known, 7))
        scores.append(-float(((points[-1] - goal) ** 2).sum()))
    assert np.mean(scores[-8:]) > -0.02 > np.mean(scores[:8])


def test_a_generation_waits_for_its_last_score() -> None:
    propose = cma_proposal(Evolution(sigma=0.1, population=4, warm_start=False))
    points = np.array([[0.9, 0.9]] * 4)
    three = observations(points, [1.0, 1.0, 1.0, np.nan], [True] * 4)
    four = observations(points, [1.0, 1.0, 1.0, 1.0], [True] * 4)
    nothing = observations(points, [np.nan] * 4, [True] * 4)
    assert propose(three, 1).tolist() == propose(nothing, 1).tolist()
    assert propose(four, 1).tolist() != propose(nothing, 1).tolist()
