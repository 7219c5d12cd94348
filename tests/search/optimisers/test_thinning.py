"""Which of very many trials an optimiser looks at."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.search.optimisers.base import Observations, SuggestFn
from bayes_merger.search.optimisers.bayesopt import Tuned, tuned_proposal
from bayes_merger.search.optimisers.structured import Structured, structured_proposal
from bayes_merger.search.optimisers.thinning import thinned
from bayes_merger.search.optimisers.turbo import Region, turbo_proposal
from bayes_merger.search.space.cube import generator


def observed(count: int) -> Observations:
    points = generator(1).random((count, 4))
    scores = -((points - 0.3) ** 2).sum(axis=1)
    scores[-7:] = np.nan
    pictures = tuple([{"value": float(number)}] for number in range(count))
    return Observations(count, count, points, scores, np.ones(count, dtype=bool), names=("a",) * 4, pictures=pictures)


def test_up_to_the_limit_all_are_seen() -> None:
    observations = observed(300)
    assert thinned(observations) is observations


def test_beyond_it_the_first_the_best_those_that_run_and_the_neighbours_of_the_best() -> None:
    observations = observed(2000)
    seen = thinned(observations)
    assert seen.points.shape == (300, 4)
    numbers = [int(own[0]["value"]) for own in seen.pictures]
    assert numbers == sorted(numbers)
    assert (seen.points == observations.points[numbers]).all()
    assert numbers[:10] == list(range(10))
    assert numbers[-7:] == list(range(1993, 2000))
    best = np.argsort(-np.nan_to_num(observations.scores, nan=-9.0))[:100]
    assert set(best.tolist()) <= set(numbers)
    left_out = np.setdiff1d(np.arange(2000), numbers)
    top = observations.points[best[:5]]
    distance = np.linalg.norm(observations.points[:, None] - top, axis=2).min(axis=1)
    others = [n for n in numbers[10:-7] if n not in best]
    assert len(others) > 150
    assert distance[others].max() <= distance[left_out].min() + 1e-9


def test_what_is_seen_of_failures_alone_is_the_first_and_the_newest() -> None:
    observations = observed(1000)
    failed = observations.only(np.isnan(observations.scores) | (np.arange(1000) < 5))
    assert len(failed.points) == 12
    blank = Observations(1000, 0, observations.points, np.full(1000, np.nan), np.ones(1000, dtype=bool))
    seen = thinned(blank)
    assert len(seen.points) == 300
    assert (seen.points[-60:] == observations.points[-60:]).all()


@pytest.mark.parametrize(
    "propose",
    [
        structured_proposal(Structured(True, 100, 1)),
        tuned_proposal(Tuned(restarts=0, candidates=100, starts=1)),
        turbo_proposal(Region(0.8, 3, 500, 50)),
    ],
    ids=["structured", "bayes", "turbo"],
)
def test_what_is_not_seen_changes_no_suggestion(propose: SuggestFn) -> None:
    observations = observed(400)
    assert (propose(observations, 3) == propose(thinned(observations), 3)).all()
