"""A run without models: pictures are grey, and what a scorer sees in them is a formula of the weights and the seed."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.config import FinalConfig, PruningConfig, RunConfig
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.merging.method import method_spec
from bayes_merger.run import loop
from bayes_merger.run.evaluator import Weights
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import ImageToScore
from bayes_merger.search import samplers
from bayes_merger.search.space.building import build_space
from bayes_merger.search.study.storage import open_storage
from bayes_merger.testing.evaluator import FakeEvaluator
from bayes_merger.testing.progress import RecordingReporter

Formula = Callable[[float, int], float]
"""From alpha of BASE and a picture's seed to its raw score."""


def noisy(noise: float) -> Formula:
    """Best at 0.3, where it is 8 on average; each seed has its own ease and each (merge, seed) its luck."""

    def formula(alpha: float, seed: int) -> float:
        ease = random.Random(seed).gauss(0.0, 1.0)
        luck = random.Random(f"{alpha} {seed}").gauss(0.0, noise)
        return 8.0 - 10.0 * (alpha - 0.3) ** 2 + ease + luck

    return formula


class FormulaScorer:
    """A scorer whose formula the evaluator reads; no picture is looked at."""

    scale, importance, interactive = (0.0, 10.0), 1.0, False

    def __init__(self, name: str, formula: Formula) -> None:
        self.name, self.formula = name, formula

    def prepare(self, folder: Path | None = None) -> None: ...

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        raise NotImplementedError


def evaluator_of(setup: RunSetup, **settings: Any) -> FakeEvaluator:
    """One that draws nothing and scores by the formulas of the setup's scorers."""

    def of_weights(formula: Formula) -> Callable[[Weights, str, int], float]:
        return lambda weights, payload, seed: formula(weights["alpha"]["BASE"], seed)

    scorers: Any = setup.scorers
    return FakeEvaluator({name: of_weights(scorer.formula) for name, scorer in scorers.items()}, **settings)


def pictures_of(evaluator: FakeEvaluator) -> list[tuple[float, str, int]]:
    """Alpha of BASE, payload and seed of every picture drawn."""
    return [(weights["alpha"]["BASE"], payload, seed) for weights, payload, seed in evaluator.drawn]


def make_setup(
    pictures: int = 4, scorers: Mapping[str, Formula] | None = None, payloads: int = 2, **settings: Any
) -> RunSetup:
    """A run over the 26 weights of SD1 as one group, so that the one number is BASE's."""
    settings.setdefault("final", FinalConfig(rescore=3, images=2))
    settings.setdefault("pruning", PruningConfig())
    config = RunConfig(model_a="a", model_b="b", **{"init_points": 4, "n_iters": 6, **settings})
    given = resolve([Payload(f"p{i}", "a ring", batch_size=pictures // payloads) for i in range(payloads)], 0)
    space = build_space(SD1.blocks, {"alpha": (0.0, 1.0)}, groups=[list(SD1.blocks)])
    fakes = {name: FormulaScorer(name, formula) for name, formula in (scorers or {"one": noisy(0.5)}).items()}
    models: Any = {"a": Model(), "b": Model()}
    return RunSetup(config, models, method_spec("weighted_sum"), space, given, fakes, samplers.random)


class Model:
    """A model file that is never read."""

    architecture, path, shapes = (
        SD1,
        Path("model.safetensors"),
        {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    )

    def sha256(self) -> str:
        return 64 * "0"


def open_study(setup: RunSetup, folder: RunFolder) -> optuna.study.Study:
    """As the command line does it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.database.exists():
        folder.database.write_bytes(_tables())
    names = ("method", "init_points", "n_iters", "objectives")
    settings = {name: getattr(setup.config, name) for name in names} | {"scoring": asdict(setup.config.scoring)}
    stored = setup.stored(settings)
    return loop.open_study(setup, folder, {}, stored)


@functools.cache
def _tables() -> bytes:
    """A storage without a study: to copy it takes a hundredth of the time to make one."""
    with tempfile.TemporaryDirectory() as place:
        open_storage(Path(place, "empty.db")).engine.dispose()
        return Path(place, "empty.db").read_bytes()


def searched(
    setup: RunSetup, path: Path, evaluator: FakeEvaluator | None = None
) -> tuple[optuna.study.Study, RecordingReporter]:
    """A study in that folder, searched until it ends."""
    folder, notes = RunFolder(path), RecordingReporter()
    study = open_study(setup, folder)
    loop.search(setup, study, evaluator or evaluator_of(setup), folder, notes, StopSignal(notes))
    return study, notes
