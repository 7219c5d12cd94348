"""Hold-outs: a change over a search with its standard error, and a warning where points and hold-out part."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from bayes_merger.report.summary import summary
from bayes_merger.report.tables import best_lines
from bayes_merger.run.holdout import change, trends
from bayes_merger.run.setup import RunSetup
from tests.run.fake_run import Formula, make_setup, noisy, searched


def drifting(by: float) -> Formula:
    """So many points more with every picture, whatever the merge, and a little noise."""
    calls = itertools.count()
    return lambda alpha, seed: 5.0 + by * (number := next(calls)) + 0.1 * (-1) ** number


def watched(by: float, holdout_by: float, **settings: int) -> RunSetup:
    scorers = {"one": drifting(by), "other": drifting(holdout_by)}
    setup = make_setup(pictures=3, payloads=1, scorers=scorers, **settings)
    setup.scorers["other"].importance = 0.0
    return setup


def test_a_change_is_that_of_a_straight_line_with_its_standard_error() -> None:
    # y = 2x with residuals +1, -1, -1, +1: Sxx = 5, and their squares sum to 4
    found = change([1.0, 1.0, 3.0, 7.0])
    assert found.by == pytest.approx(6.0)
    assert found.error == pytest.approx(3 * (4 / 2 / 5) ** 0.5)
    assert str(found) == "+6.000 ± 1.897"
    assert change([5.0, 5.0, 5.0]) == change([1.0, 1.0, 1.0])


def test_a_search_that_pleases_its_scorer_alone_is_told_once_and_shown(tmp_path: Path) -> None:
    study, notes = searched(watched(0.05, -0.02, n_iters=24), tmp_path / "study")
    warned = [line for line in notes.lines if line.startswith("warning")]
    assert len(warned) == 1
    assert "the hold-out other by -" in warned[0]
    assert "the search may be pleasing its scorer alone" in warned[0]
    (found,) = trends(study)
    assert (found.scorer, found.trials, found.parts) == ("other", 24, True)
    assert found.points.by == pytest.approx(0.05 * 3 * 23, abs=0.1)
    assert found.holdout.by == pytest.approx(-0.02 * 3 * 23, abs=0.1)
    data = json.loads(json.dumps(summary(study)))
    assert data["holdouts"][0]["holdout"] == {"by": found.holdout.by, "error": found.holdout.error}
    assert best_lines(data)[1] == str(found)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("by", "holdout_by"), [(0.05, 0.02), (0.0, -0.02), (-0.05, -0.02), (0.05, 0.0)])
def test_where_they_do_not_part_nobody_is_warned(by: float, holdout_by: float, tmp_path: Path) -> None:
    study, notes = searched(watched(by, holdout_by, n_iters=12), tmp_path / "study")
    assert [trend.parts for trend in trends(study)] == [False]
    assert not any(line.startswith("warning") for line in notes.lines)


@pytest.mark.slow
def test_no_trend_is_told_while_a_search_is_young_or_nothing_is_held_out(tmp_path: Path) -> None:
    young, _ = searched(watched(0.05, -0.02, n_iters=9), tmp_path / "young")
    assert trends(young) == []
    none, _ = searched(make_setup(n_iters=12, scorers={"one": noisy(0.1)}), tmp_path / "none")
    assert trends(none) == []


def test_a_scorer_that_says_the_same_of_every_merge_is_told(tmp_path: Path) -> None:
    _, notes = searched(make_setup(n_iters=6, scorers={"one": lambda alpha, seed: 5.0}), tmp_path / "study")
    warned = [line for line in notes.lines if line.startswith("warning")]
    assert warned == ["warning: all of 10 trials have the same points: the scorers cannot tell these merges apart"]
