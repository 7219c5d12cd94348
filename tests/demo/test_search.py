"""The demo is a real search: it ends with a better merge, and with the scores shuffled it does not."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger import compose
from bayes_merger.run import loop
from bayes_merger.run.evaluator import Evaluation, PipelineEvaluator
from bayes_merger.run.final import decide
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import Final
from bayes_merger.session import make_setup
from tests.run.test_loop import Notes


class ShuffledBench:
    """The real bench, but every trial is told the value of another one, drawn from all values seen so far."""

    def __init__(self, bench: PipelineEvaluator, seed: int) -> None:
        self._bench = bench
        self._values: list[float] = []
        self._random = random.Random(seed)
        self.put, self.draw, self.save = bench.put, bench.draw, bench.save

    def judge(self, *arguments: Any) -> Evaluation:
        evaluation = self._bench.judge(*arguments)
        self._values.append(evaluation.value)
        return dataclasses.replace(evaluation, value=self._random.choice(self._values))


def searched(folder: RunFolder, shuffle: int | None = None) -> tuple[optuna.study.Study, Final]:
    """The demo run in this process; ``shuffle`` is the seed of the shuffling."""
    settings = compose.compose_run(["experiment=demo"])
    parts = make_setup(compose.validate(settings), settings, folder)
    notes = Notes()
    stop = StopSignal(notes)
    folder.path.mkdir()
    bench: Any = PipelineEvaluator.load(parts, notes, stop)
    if shuffle is not None:
        bench = ShuffledBench(bench, shuffle)
    study = loop.open_study(parts, folder, {}, parts.stored(settings))
    loop.search(parts, study, bench, folder, notes, stop)
    return study, decide(parts, study, bench, notes, stop)


def leads(final: Final) -> dict[str, float]:
    """How many standard errors the winner leads each model by."""
    return {row.name: row.behind / row.behind_error for row in final.rows[1:] if row.behind_error}


@pytest.mark.slow
def test_the_demo_s_winner_beats_a_b_and_the_even_mix_by_two_standard_errors(tmp_path: Path) -> None:
    study, final = searched(RunFolder(tmp_path / "demo"))
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) >= 40
    assert set(leads(final)) == {"model A", "model B", "even mix"}
    assert min(leads(final).values()) > 2, final


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_with_the_scores_shuffled_it_does_not(tmp_path: Path, seed: int) -> None:
    _, final = searched(RunFolder(tmp_path / "demo"), shuffle=seed)
    assert min(leads(final).values()) < 2, final
