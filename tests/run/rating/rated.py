"""Studies whose pictures wait for a person, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import IMAGES, SCORES, WEIGHTS
from bayes_merger.run.fingerprint import candidate_id
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.asking import asked_about
from bayes_merger.run.rating.awaiting import Question
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.run.setup import RunSetup
from bayes_merger.search.study.history import AWAITING
from bayes_merger.search.study.workers import Worker
from bayes_merger.testing.evaluator import FakeEvaluator
from tests.run import fake_run


def a_study(
    path: Path, *, waiting: int = 1, every: int = 20, payloads: int = 2, **settings: Any
) -> tuple[RunFolder, RunSetup]:
    """A study with so many trials drawn, each of a picture for every payload."""
    setup = fake_run.make_setup(payloads, {"manual": lambda alpha, seed: 0.0}, payloads, **settings)
    folder = RunFolder(path / "study")
    study = fake_run.open_study(setup, folder)
    for _ in range(waiting):
        draw(study, setup, folder, every)
    return folder, setup


def draw(study: optuna.study.Study, setup: RunSetup, folder: RunFolder, every: int = 20) -> None:
    """One more trial, drawn by a worker that then is gone."""
    total = setup.config.init_points + setup.config.n_iters
    evaluator = FakeEvaluator({})
    payloads: tuple[Payload, ...] = setup.payloads
    with Worker(study, setup.space) as worker:
        trial = worker.claim(total)
        assert trial is not None
        evaluator.load_weights(trial.user_attrs[WEIGHTS])
        images = evaluator.draw(payloads)
        paths = evaluator.save(folder.images(trial.number), images, payloads)
        names = [path.relative_to(folder.path).as_posix() for path in paths]
        candidate = candidate_id(trial.user_attrs[WEIGHTS])
        asked = [Question(candidate, i.payload, i.index, i.seed, n) for i, n in zip(images, names, strict=True)]
        found = asked_about(study, trial, folder, "manual", candidate, asked, every)
        worker.set_aside(trial, {SCORES: [], IMAGES: names, AWAITING: found.stored()})


def rate_all(folder: RunFolder, scores: Sequence[float]) -> None:
    """Give the trials that wait these scores, oldest first, and confirm them."""
    with Sitting(folder, "ann") as sitting:
        for trial, score in zip(sitting.trials(), scores, strict=True):
            for picture in trial.pictures:
                sitting.rate(picture.id, score, 1000)
            sitting.confirm(trial.id)
