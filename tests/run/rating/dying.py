"""Processes that are killed over a study that waits for a person."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from bayes_merger.config import ScoringConfig
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run import loop
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.rating.awaiting import awaited
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.testing.evaluator import FakeEvaluator
from bayes_merger.testing.progress import RecordingReporter
from tests.run import fake_run
from tests.run.rating.test_run import by_hand


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingEvaluator(FakeEvaluator):
    """Is killed in the middle of the third trial."""

    def draw(self, payloads: Sequence[Payload], *rest: object) -> tuple[DrawnImage, ...]:
        images = super().draw(payloads)
        if len(self.drawn) > 4:
            die()
        return images


class DyingReporter(RecordingReporter):
    """Is killed as soon as the run waits for the person."""

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        if text.startswith("waiting for your ratings"):
            die()


def run(folder: RunFolder, phase: str) -> None:
    setup = by_hand(ScoringConfig(page=True, ahead=3))
    study = fake_run.open_study(setup, folder)
    setup.scorers["manual"].prepare(folder.path)
    progress = DyingReporter()
    evaluator = DyingEvaluator({}) if phase == "drawing" else FakeEvaluator({})
    loop.search(setup, study, evaluator, folder, progress, StopSignal(progress))


def rate(folder: RunFolder, phase: str) -> None:
    """Killed after a rating, or between the confirmation in the ledger and the value in the study."""
    with Sitting(folder, "ann") as sitting:
        trial = sitting.trials()[0]
        for picture in trial.pictures:
            sitting.rate(picture.id, 9)
        if phase == "confirming":
            one = awaited(sitting.study)[0]
            sitting.ledger.append("confirm", one.candidate, trial=one.number)
        die()
