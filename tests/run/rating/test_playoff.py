from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.config import ScoringConfig
from bayes_merger.errors import Closed, ConfigError
from bayes_merger.run.attributes import PLAYOFF
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.run.record import chosen_trial
from tests.run.rating.rated import a_study, rate_all


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A study of four trials with 2, 4, 6, 8 points, of which three play."""
    folder, _ = a_study(tmp_path, waiting=4, init_points=4, n_iters=0, scoring=ScoringConfig(playoff=3))
    rate_all(folder, [2, 4, 6, 8])
    return folder


def prefer(sitting: Sitting, best: str) -> None:
    """Say that trial is always the better one, and that others are equal."""
    bracket = sitting.play_off()
    assert bracket is not None
    for pair in bracket.open:
        places = (pair.left.path.parent.name, pair.right.path.parent.name)
        side = ("left", "right")[places.index(best)] if best in places else "neither"
        sitting.prefer(pair.id, side, 900)  # type: ignore[arg-type]


def test_the_champion_becomes_the_best_merge(folder: RunFolder) -> None:
    assert chosen_trial(load(folder)).number == 3
    with Sitting(folder) as sitting:
        bracket = sitting.play_off()
        assert bracket is not None
        assert (len(bracket.pairs), len(bracket.open), bracket.over) == (6, 6, False)  # 3 pairs of merges, 2 prompts
        prefer(sitting, "0001")
        sitting.end_play_off()
        bracket = sitting.play_off()
        assert bracket is not None
        assert (bracket.open, bracket.over) == ((), True)
    study = load(folder)
    assert chosen_trial(study).number == 1
    stored = study.user_attrs[PLAYOFF]
    assert (stored["trials"], stored["champion"], stored["compared"]) == ([3, 2, 1], 1, 6)
    assert stored["strengths"] == pytest.approx([-0.754182, -0.754182, 1.508364], abs=1e-6)


def test_a_play_off_waits_for_the_search_to_be_over(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=4, init_points=4, n_iters=1, scoring=ScoringConfig(playoff=3))
    rate_all(folder, [2, 4, 6, 8])
    with Sitting(folder) as sitting:
        assert sitting.play_off() is None
        with pytest.raises(ConfigError, match="there is no play-off yet"):
            sitting.end_play_off()


def test_it_goes_on_where_it_stopped_and_answers_can_be_taken_back(folder: RunFolder) -> None:
    with Sitting(folder, "ann") as sitting:
        bracket = sitting.play_off()
        assert bracket is not None
        first, second = bracket.pairs[:2]
        sitting.prefer(first.id, "left")
        sitting.prefer(second.id, "right")
    with Sitting(folder, "ann") as sitting:
        bracket = sitting.play_off()
        assert bracket is not None
        assert [pair.answer for pair in bracket.pairs] == ["left", "right", None, None, None, None]
        assert sitting.undo() == second.id
        sitting.prefer(first.id, "neither")
        bracket = sitting.play_off()
        assert bracket is not None
        assert [pair.answer for pair in bracket.pairs[:2]] == ["neither", None]


def test_sides_are_mixed_and_both_are_of_one_prompt(folder: RunFolder) -> None:
    with Sitting(folder) as sitting:
        bracket = sitting.play_off()
    assert bracket is not None
    assert {pair.left.payload == pair.right.payload == pair.payload for pair in bracket.pairs} == {True}
    assert len({pair.left.path.parent.name for pair in bracket.pairs}) > 1


def test_after_its_end_nothing_is_said_any_more(folder: RunFolder) -> None:
    with Sitting(folder) as sitting, Sitting(folder) as other:
        bracket = other.play_off()
        assert bracket is not None
        sitting.end_play_off()
        size = folder.ratings.stat().st_size
        with pytest.raises(Closed, match="the play-off is over"):
            other.prefer(bracket.pairs[0].id, "left")
        other.end_play_off()
        assert other.undo() is None
        with pytest.raises(ConfigError, match="no such pair"):
            other.prefer("0" * 16, "left")
    assert folder.ratings.stat().st_size == size
    assert chosen_trial(load(folder)).number == 3


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "stored",
    [
        {"trials": [0, 99], "champion": 99, "strengths": [0.0, 0.0], "errors": [1.0, 1.0]},
        {"trials": [0, 1], "champion": 0, "strengths": [0.0], "errors": [1.0, 1.0]},
        {"trials": [0, 1], "champion": 0, "strengths": [float("inf"), 0.0], "errors": [1.0, 1.0]},
        {"trials": "01"},
        {"trials": [[0], 1]},
        {"trials": [0, 1], "more": 1},
        {"trials": [0, 1], "champion": 0, "strengths": [0.0, 0.0], "errors": [1.0, 1.0], "after": 3},
        [0, 1],
        7,
    ],
)
def test_what_no_run_has_stored_is_no_play_off(folder: RunFolder, stored: object) -> None:
    with Sitting(folder) as sitting:
        sitting.study.set_user_attr(PLAYOFF, stored)
    assert chosen_trial(load(folder)).number == 3
