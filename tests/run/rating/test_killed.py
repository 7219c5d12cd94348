"""kill -9 of the run and of the rater, at each phase in which one may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.config import ScoringConfig
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.run.record import complete_trials
from tests.processes import Process
from tests.run.rating import dying
from tests.run.rating.test_run import Rater, by_hand, first_gets_7, run


def killed(folder: RunFolder, phase: str) -> None:
    with Process(dying.rate if phase in ("rating", "confirming") else dying.run, folder, phase) as process:
        assert process.wait() == -9


def states(folder: RunFolder) -> list[str]:
    return [f"{trial.state.name} {'awaiting' in trial.user_attrs}" for trial in load(folder).get_trials()[:4]]


@pytest.mark.slow
def test_whoever_is_killed_nothing_is_drawn_or_rated_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    killed(folder, "drawing")
    assert states(folder) == ["RUNNING True", "RUNNING True", "RUNNING False", "WAITING False"]
    killed(folder, "waiting")
    assert states(folder)[:2] == ["RUNNING True"] * 2
    killed(folder, "rating")
    with Sitting(folder, "ann") as sitting:
        assert [[picture.score for picture in trial.pictures] for trial in sitting.trials()] == [
            [9.0, 9.0],
            [None, None],
            [None, None],
        ]
    killed(folder, "confirming")
    rater = Rater(folder, first_gets_7)
    evaluator = run(by_hand(ScoringConfig(page=True, ahead=3)), folder, rater)
    assert sorted(trial.values[0] for trial in complete_trials(load(folder))) == [7.0] * 5 + [9.0]
    assert len(evaluator.drawn) == 6  # the last three trials; the first three were drawn before
    assert len([line for line in folder.ratings.read_text().splitlines() if '"confirm"' in line]) == 6
