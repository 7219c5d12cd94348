from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.run.rating.strengths import bradley_terry


def test_strengths_are_at_the_top_of_what_they_maximise() -> None:
    """Against the maximum found by brute force over a grid: one contestant won two of three, and one tie."""
    outcomes = [(0, 1, 1.0), (0, 1, 1.0), (0, 1, 0.0), (0, 1, 0.5)]
    gaps = np.linspace(-4, 4, 800001)
    won = 2.5 * -np.log1p(np.exp(-gaps)) + 1.5 * -np.log1p(np.exp(gaps)) - 2 * (gaps / 2) ** 2 / (2 * 2.0**2)
    found = bradley_terry(2, outcomes)
    assert found.strengths[0] - found.strengths[1] == pytest.approx(gaps[won.argmax()], abs=2e-5)
    assert found.champion == 0


def test_literal_numbers() -> None:
    found = bradley_terry(3, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.5)])
    assert found.strengths == pytest.approx((1.17372868, -0.58686434, -0.58686434), abs=1e-8)
    assert found.errors == pytest.approx((1.54887884, 1.47345194, 1.47345194), abs=1e-8)


def test_without_comparisons_the_first_is_the_champion_and_nothing_is_known() -> None:
    found = bradley_terry(4, [])
    assert (found.champion, found.strengths, found.errors) == (0, (0.0,) * 4, (2.0,) * 4)


def test_one_that_always_wins_stays_finite() -> None:
    found = bradley_terry(5, [(4, i, 1.0) for i in range(4)] * 500)
    assert found.champion == 4
    assert all(np.isfinite([*found.strengths, *found.errors]))


@pytest.mark.parametrize("seed", range(3))
def test_strengths_are_found_again_within_their_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.array([1.0, 0.5, 0.0, -0.5, -1.0])
    pairs = [(i, j) for i in range(5) for j in range(i)] * 100
    outcomes = [(i, j, float(rng.random() < 1 / (1 + np.exp(true[j] - true[i])))) for i, j in pairs]
    found = bradley_terry(5, outcomes)
    assert found.champion == 0
    assert np.all(np.abs(np.array(found.strengths) - true) < 3 * np.array(found.errors))
