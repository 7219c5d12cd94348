"""The demo is a real search: it ends with a better merge, and with the scores shuffled it does not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger import compose
from bayes_merger.run import loop
from bayes_merger.run.evaluator import PipelineEvaluator
from bayes_merger.run.final import decide
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import Final
from bayes_merger.scoring.scorer import Score
from bayes_merger.setups import make_setup
from bayes_merger.testing.progress import RecordingReporter


class ShuffledEvaluator:
    """The real one, but every trial gets the scores of another one, drawn from all seen so far."""

    def __init__(self, evaluator: PipelineEvaluator, seed: int) -> None:
        self._evaluator = evaluator
        self._seen: list[list[Score]] = []
        self._random = random.Random(seed)
        self.load_weights, self.draw, self.save = evaluator.load_weights, evaluator.draw, evaluator.save
        self.score_each = evaluator.score_each

    def score(self, *arguments: Any) -> list[Score]:
        self._seen.append(self._evaluator.score(*arguments))
        return self._random.choice(self._seen)


def searched(folder: RunFolder, shuffle: int | None = None) -> tuple[optuna.study.Study, Final]:
    """The demo run in this process; ``shuffle`` is the seed of the shuffling."""
    settings = compose.compose_run(["experiment=demo"])
    parts = make_setup(compose.validate(settings), settings, folder)
    notes = RecordingReporter()
    stop = StopSignal(notes)
    folder.path.mkdir()
    evaluator: Any = PipelineEvaluator.load(parts, notes, stop)
    if shuffle is not None:
        evaluator = ShuffledEvaluator(evaluator, shuffle)
    study = loop.open_study(parts, folder, {}, parts.stored(settings))
    loop.search(parts, study, evaluator, folder, notes, stop)
    return study, decide(parts, study, evaluator, notes, stop)


def leads(final: Final) -> dict[str, float]:
    """How many standard errors the winner leads each model by."""
    return {row.name: row.behind / row.behind_error for row in final.rows[1:] if row.behind_error}


@pytest.mark.slow
def test_the_demo_s_winner_beats_a_b_and_the_even_mix_by_two_standard_errors(tmp_path: Path) -> None:
    study, final = searched(RunFolder(tmp_path / "demo"))
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) >= 30
    assert set(leads(final)) == {"model A", "model B", "even mix"}
    assert min(leads(final).values()) > 2, final


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_with_the_scores_shuffled_it_does_not(tmp_path: Path, seed: int) -> None:
    _, final = searched(RunFolder(tmp_path / "demo"), shuffle=seed)
    assert min(leads(final).values()) < 2, final
