"""A person and a model of them judge one study: they are asked what it is unsure of, and nothing twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bayes_merger.config import FinalConfig, ScoringConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn
from bayes_merger.run import loop
from bayes_merger.run.baselines import Baseline
from bayes_merger.run.checks import check_rating
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.judging import Judging, Weights
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.rating.album import Picture
from bayes_merger.run.rating.sitting import Sitting, Trial
from bayes_merger.run.record import complete_trials
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring import ManualScorer, RaterScorer
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.rater.scorer import ASSIST
from bayes_merger.testing.progress import RecordingReporter
from tests.run import fake_run
from tests.run.rating.test_run import Rater
from tests.scoring.rater.test_scorer import ColourTower


class Coloured(Judging):
    """Draws pictures that are the redder the nearer BASE is to 0.3, each seed with its own blue."""

    def load_weights(self, weights: Weights, baseline: Baseline | None = None) -> None:
        self.weights = weights

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        red = 255 - round(250 * abs(self.weights["alpha"]["BASE"] - 0.3))
        return tuple(
            DrawnImage(one.name, index, seed, "a ring", Image.new("RGB", (8, 8), (red, 60, 40 + seed % 60)))
            for one in payloads
            for index, seed in enumerate(one.seeds)
        )


def rate(sitting: Sitting, trials: list[Trial]) -> None:
    """Likes red, and is not always of the same mind."""
    for picture in trials[0].pictures:
        sitting.rate(picture.id, opinion(picture), 900)
    sitting.confirm(trials[0].id)


def opinion(picture: Picture) -> float:
    red, _, _ = Image.open(picture.path).getpixel((0, 0))  # type: ignore[misc]
    return round(min(10, max(0, red / 25.5 + random.Random(picture.id).gauss(0, 0.7))), 1)


def assisted(folder: RunFolder, scoring: ScoringConfig, trials: int = 6, **settings: Any) -> RunSetup:
    setup = fake_run.make_setup(
        8, init_points=trials - 2, n_iters=2, final=FinalConfig(images=0, predicted=False), scoring=scoring, **settings
    )
    tower: Any = ColourTower()
    manual, rater = ManualScorer(), RaterScorer(tower)
    setup.scorers.clear()  # type: ignore[attr-defined]
    setup.scorers.update(manual=manual, rater=rater)  # type: ignore[attr-defined]
    for scorer in (manual, rater):
        scorer.prepare(folder.path)
    rater.ledger = manual.ledger
    return setup


def run(setup: RunSetup, folder: RunFolder, progress: RecordingReporter) -> None:
    study, stop = fake_run.open_study(setup, folder), StopSignal(progress)
    loop.search(setup, study, Coloured(setup, progress, stop), folder, progress, stop)


@pytest.mark.slow
def test_the_model_answers_what_it_is_sure_of_and_the_person_the_rest(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    setup = assisted(folder, ScoringConfig(page=True, ahead=1, assist=True, repeats=0), trials=16)
    run(setup, folder, Rater(folder, rate))
    trials = complete_trials(load(folder))
    ratings = Ledger(folder.ratings).ratings()
    by_model = [one for one in ratings if one.kind == "score" and one.rater == ASSIST]
    by_person = [one for one in ratings if one.kind == "score" and one.rater == "ann"]
    assert len(trials) == 16
    assert len(by_model) + len(by_person) == 16 * 8
    assert len(by_model) > 16
    for trial in trials:
        scores = trial.user_attrs["scores"]
        manual = [score["value"] for score in scores if score["scorer"] == "manual"]
        assert len(manual) == 8
        assert trial.value == pytest.approx(sum(manual) / 8)
        assert sum(score["scorer"] == "rater" for score in scores) == 8


@pytest.mark.slow
def test_as_a_hold_out_it_leaves_every_picture_to_the_person(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    setup = assisted(folder, ScoringConfig(page=True, ahead=1, repeats=0))
    run(setup, folder, Rater(folder, rate))
    ratings = Ledger(folder.ratings).ratings()
    assert sum(one.kind == "score" for one in ratings) == 6 * 8
    assert {one.rater for one in ratings} == {"ann"}


@pytest.mark.slow
def test_a_person_is_asked_about_the_payloads_that_they_judge(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    scoring = ScoringConfig(page=True, ahead=1, repeats=0, payloads={"manual": ["p0"]})
    setup = assisted(folder, scoring, payloads=2)
    setup.scorers["rater"].importance = 1.0  # so that the other payload has a judge
    run(setup, folder, Rater(folder, rate))
    ratings = Ledger(folder.ratings).ratings()
    assert {one.payload for one in ratings if one.kind == "score"} == {"p0"}
    assert len(complete_trials(load(folder))) == 6


def test_assistance_needs_a_person_and_a_model_of_them(tmp_path: Path) -> None:
    setup = assisted(RunFolder(tmp_path), ScoringConfig(assist=True))
    check_rating(setup.config, setup.scorers)
    for left_out in ("manual", "rater"):
        others = {name: scorer for name, scorer in setup.scorers.items() if name != left_out}
        with pytest.raises(ConfigError, match="give  scorers=manual,rater"):
            check_rating(setup.config, others)
    whole = assisted(RunFolder(tmp_path), ScoringConfig(assist=True, unit="trial"))
    with pytest.raises(ConfigError, match=r"scoring\.unit=picture"):
        check_rating(whole.config, whole.scorers)
