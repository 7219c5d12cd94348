"""A run that goes on while its pictures wait for a person, or stops and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger.config import FinalConfig, ScoringConfig
from bayes_merger.errors import Paused, UserError
from bayes_merger.run import loop
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.rating.awaiting import awaited
from bayes_merger.run.rating.sitting import Sitting, Trial
from bayes_merger.run.record import complete_trials
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring import ManualScorer
from bayes_merger.testing.evaluator import FakeEvaluator
from bayes_merger.testing.progress import RecordingReporter
from tests.run import fake_run


class Rater(RecordingReporter):
    """A person who rates as soon as the run waits for them.

    Args:
        folder: of the study.
        rate: what they do with what waits.
    """

    def __init__(self, folder: RunFolder, rate: Callable[[Sitting, list[Trial]], None]) -> None:
        super().__init__()
        self.folder, self.rate = folder, rate
        self.found: list[int] = []

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        if text.startswith("waiting for your ratings"):
            with Sitting(self.folder, "ann") as sitting:
                trials = sitting.trials()
                self.found.append(len(trials))
                self.rate(sitting, trials)


def confirm(sitting: Sitting, trial: Trial, score: float) -> None:
    for picture in trial.pictures:
        sitting.rate(picture.id, score, 1000)
    sitting.confirm(trial.id)


def first_gets_7(sitting: Sitting, trials: list[Trial]) -> None:
    confirm(sitting, trials[0], 7)


def by_hand(scoring: ScoringConfig, scorer: ManualScorer | None = None, **settings: Any) -> RunSetup:
    """A run of six trials of two pictures whose only judge is a person."""
    final = FinalConfig(images=0, predicted=False)
    setup = fake_run.make_setup(2, init_points=4, n_iters=2, final=final, scoring=scoring, **settings)
    setup.scorers.clear()  # type: ignore[attr-defined]
    setup.scorers["manual"] = scorer or ManualScorer()  # type: ignore[index]
    return setup


def run(setup: RunSetup, folder: RunFolder, progress: RecordingReporter) -> FakeEvaluator:
    study = fake_run.open_study(setup, folder)
    setup.scorers["manual"].prepare(folder.path)
    evaluator = FakeEvaluator({})
    loop.search(setup, study, evaluator, folder, progress, StopSignal(progress))
    return evaluator


def values(folder: RunFolder) -> list[list[float]]:
    return [trial.values for trial in complete_trials(load(folder))]


def test_the_run_draws_ahead_until_so_many_trials_wait(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    rater = Rater(folder, first_gets_7)
    run(by_hand(ScoringConfig(page=True, ahead=3)), folder, rater)
    assert rater.found == [3, 3, 3, 3, 2, 1]
    assert values(folder) == [[7.0]] * 6
    assert [(report.number, report.value, report.done) for report in rater.reports] == [
        (n, 7.0, n + 1) for n in range(6)
    ]
    assert all(report.blind for report in rater.reports)  # the terminal beside the page tells no score


@pytest.mark.slow
def test_the_optimiser_sees_what_waits_as_running(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    states: list[list[str]] = []

    def look(sitting: Sitting, trials: list[Trial]) -> None:
        states.append([trial.state.name for trial in sitting.study.get_trials() if "awaiting" in trial.user_attrs])
        first_gets_7(sitting, trials)

    run(by_hand(ScoringConfig(page=True, ahead=2)), folder, Rater(folder, look))
    assert states[:2] == [["RUNNING", "RUNNING"], ["COMPLETE", "RUNNING", "RUNNING"]]


class Away(BaseException):
    """The process is gone."""


def test_what_waits_is_there_again_after_a_death_and_is_not_drawn_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")

    def die(sitting: Sitting, trials: list[Trial]) -> None:
        sitting.rate(trials[0].pictures[0].id, 3, 1000)
        raise Away

    setup = by_hand(ScoringConfig(page=True, ahead=3))
    with pytest.raises(Away):
        run(setup, folder, Rater(folder, die))
    rater = Rater(folder, first_gets_7)
    again = run(setup, folder, rater)
    assert rater.found == [3, 3, 3, 3, 2, 1]
    assert len(again.drawn) == 6  # two pictures of the last three trials
    assert values(folder) == [[7.0]] * 6


@pytest.mark.slow
def test_a_rating_that_was_confirmed_by_a_process_that_died_then_counts_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    setup = by_hand(ScoringConfig(page=True, ahead=1))

    def die(sitting: Sitting, trials: list[Trial]) -> None:
        """Between the ledger and the study."""
        (one,) = awaited(sitting.study)
        for question in one.pictures:
            sitting.ledger.append("score", one.candidate, question.payload, question.index, score=4)
        sitting.ledger.append("confirm", one.candidate, trial=one.number)
        raise Away

    with pytest.raises(Away):
        run(setup, folder, Rater(folder, die))
    assert values(folder) == []
    with Sitting(folder) as sitting:
        assert sitting.trials() == []
    assert values(folder) == [[4.0]]
    rater = Rater(folder, first_gets_7)
    run(setup, folder, rater)
    assert values(folder) == [[4.0], *[[7.0]] * 5]


@pytest.mark.slow
def test_a_trial_called_void_is_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")

    def rate(sitting: Sitting, trials: list[Trial]) -> None:
        if folder.ratings.stat().st_size == 0:
            sitting.void(trials[0].id)
        else:
            first_gets_7(sitting, trials)

    rater = Rater(folder, rate)
    run(by_hand(ScoringConfig(page=True)), folder, rater)
    assert values(folder) == [[7.0]] * 6
    assert rater.reports[0].reason == "marked by hand as one that cannot be judged"


@pytest.mark.slow
def test_pictures_that_are_lost_are_drawn_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")

    def lose(sitting: Sitting, trials: list[Trial]) -> None:
        trials[0].pictures[0].path.unlink()
        raise Away

    setup = by_hand(ScoringConfig(page=True, ahead=2))
    with pytest.raises(Away):
        run(setup, folder, Rater(folder, lose))
    rater = Rater(folder, first_gets_7)
    run(setup, folder, rater)
    assert rater.lines == ["1 trials that wait for ratings have lost pictures and are drawn again"]
    assert values(folder) == [[7.0]] * 6


def answering(*answers: str) -> ManualScorer:
    left = list(answers)

    def ask(question: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return ManualScorer(ask=ask, tell=lambda line: None, viewer="true")


@pytest.mark.slow
def test_in_the_terminal_each_trial_is_asked_about_when_it_is_drawn(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    with pytest.raises(Paused, match="nobody is there to rate; every rating so far is kept"):
        run(by_hand(ScoringConfig(), answering("7", "8", "9")), folder, RecordingReporter())
    assert values(folder) == [[7.5]]
    evaluator = run(by_hand(ScoringConfig(), answering(*["5"] * 9)), folder, RecordingReporter())
    assert values(folder) == [[7.5], [7.0], *[[5.0]] * 4]
    assert len(evaluator.drawn) == 8


@pytest.mark.slow
def test_pictures_of_two_trials_are_mixed_and_confirmed_together(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    shown: list[int] = []

    def rate(sitting: Sitting, trials: list[Trial]) -> None:
        shown.append(len(trials[0].pictures))
        first_gets_7(sitting, trials)

    rater = Rater(folder, rate)
    run(by_hand(ScoringConfig(page=True, ahead=4, shuffle=True)), folder, rater)
    assert shown == [4, 4, 4]
    assert values(folder) == [[7.0]] * 6


@pytest.mark.slow
def test_one_score_for_a_whole_trial(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")

    def rate(sitting: Sitting, trials: list[Trial]) -> None:
        assert trials[0].unrated == 1
        sitting.rate(trials[0].id, 6)
        assert sitting.trials()[0].score == 6
        sitting.confirm(trials[0].id)

    run(by_hand(ScoringConfig(page=True, unit="trial")), folder, Rater(folder, rate))
    assert values(folder) == [[6.0]] * 6
    assert len(folder.ratings.read_text().splitlines()) == 12


@pytest.mark.slow
def test_only_the_best_pictures_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    scores = iter((5, 3, 8, 1, 2, 4))

    def rate(sitting: Sitting, trials: list[Trial]) -> None:
        confirm(sitting, trials[0], next(scores))

    run(by_hand(ScoringConfig(page=True), images="best"), folder, Rater(folder, rate))
    assert sorted(path.name for path in (folder.path / "images").iterdir()) == ["0000", "0002"]


@pytest.mark.parametrize("change", [{"unit": "row"}, {"ahead": 0}, {"repeats": -1}, {"playoff": -1}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    from bayes_merger.run.checks import check_rating

    setup = by_hand(ScoringConfig(**change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"^scoring.{next(iter(change))}: "):
        check_rating(setup.config, setup.scorers)


def test_two_people_as_scorers_are_refused() -> None:
    from bayes_merger.run.checks import check_rating

    with pytest.raises(UserError, match="manual and other are both you"):
        check_rating(by_hand(ScoringConfig()).config, {"manual": ManualScorer(), "other": ManualScorer(name="other")})


def test_a_study_keeps_the_persons_scores_beside_those_of_other_judges(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
    setup = by_hand(ScoringConfig(page=True))
    setup.scorers["one"] = fake_run.FormulaScorer("one", lambda alpha, seed: 5.0)  # type: ignore[index]
    study = fake_run.open_study(setup, folder)
    setup.scorers["manual"].prepare(folder.path)
    rater = Rater(folder, first_gets_7)
    evaluator = FakeEvaluator({"one": lambda weights, payload, seed: 5.0})
    loop.search(setup, study, evaluator, folder, rater, StopSignal(rater))
    assert values(folder) == [[6.0]] * 6
    trial: optuna.trial.FrozenTrial = complete_trials(load(folder))[0]
    assert [(score["scorer"], score["value"]) for score in trial.user_attrs["scores"]] == [
        ("one", 5.0), ("one", 5.0), ("manual", 7.0), ("manual", 7.0),
    ]  # fmt: skip
