from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bayes_merger.config import ScoringConfig
from bayes_merger.errors import Paused
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.rating.terminal import compare_in_terminal, rate_in_terminal, sit_in_terminal
from bayes_merger.run.record import chosen_trial, complete_trials
from bayes_merger.scoring import ManualScorer, Viewer
from tests.run.rating.rated import a_study, rate_all


class Person:
    """Answers from a list, and then is gone."""

    def __init__(self, folder: RunFolder, *answers: str, confirm: bool = False) -> None:
        self.answers, self.questions, self.opened = list(answers), list[str](), list[Path]()
        self.told: list[str] = []
        viewer = Viewer("view", tell=lambda _: None, start=lambda command: self.opened.append(Path(command[-1])))
        self.scorer = ManualScorer(ask=self.ask, tell=self.told.append, shown=viewer, confirm=confirm)
        self.scorer.prepare(folder.path)

    def ask(self, question: str) -> str:
        self.questions.append(question.split("  ")[0])
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)


def values(folder: RunFolder) -> list[list[float]]:
    return [trial.values for trial in complete_trials(load(folder))]


def test_everything_that_waits_is_asked_about_trial_by_trial(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2)
    person = Person(folder, "7", "u", "6", "8", "5", "s", "9")
    rate_in_terminal(folder, person.scorer)
    assert values(folder) == [[7.0], [7.0]]
    assert person.questions == [
        "image 1/2 p0", "image 2/2 p1", "image 1/2 p0", "image 2/2 p1", "image 1/2 p0", "image 2/2 p1", "image 2/2 p1",
    ]  # fmt: skip


def test_the_names_of_files_tell_nothing_and_the_files_stay(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    person = Person(folder, "7", "8")
    rate_in_terminal(folder, person.scorer)
    assert [path.parent for path in person.opened] == [folder.path / "to_rate"] * 2
    assert all(len(path.stem) == 16 and path.is_file() for path in person.opened)


def test_how_many_are_rated_is_said_and_nothing_of_their_scores(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, init_points=2, n_iters=5)
    person = Person(folder, "7", "8", "5", "6")
    rate_in_terminal(folder, person.scorer)
    assert person.told == ["0 of 7 merges are rated", "1 of 7 merges are rated"]


def test_the_best_so_far_is_shown_beside(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2)
    person = Person(folder, "b", "7", "8", "b", "5", "6")
    rate_in_terminal(folder, person.scorer)
    assert "  there is no best merge yet" in person.told
    (beside,) = [path for path in person.opened if path.stem.endswith("-best")]
    with Image.open(beside) as both, Image.open(person.opened[-1]) as one:
        assert both.size == (2 * one.width, one.height)


def test_a_trial_called_void_is_left(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2)
    rate_in_terminal(folder, Person(folder, "v", "v", "5", "5").scorer)
    assert values(folder) == [[5.0]]


def test_with_confirm_the_last_score_can_be_taken_back(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    rate_in_terminal(folder, Person(folder, "7", "8", "u", "3", "", confirm=True).scorer)
    assert values(folder) == [[5.0]]


def test_who_goes_away_is_asked_about_the_rest_when_they_are_back(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    with pytest.raises(Paused, match="nobody is there to rate"):
        rate_in_terminal(folder, Person(folder, "7").scorer)
    back = Person(folder, "9")
    rate_in_terminal(folder, back.scorer)
    assert back.questions == ["image 2/2 p1"]
    assert values(folder) == [[8.0]]


def test_one_score_for_a_whole_trial(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, scoring=ScoringConfig(unit="trial"))
    person = Person(folder, "4")
    rate_in_terminal(folder, person.scorer)
    assert person.questions == ["image 1/1 all together"]
    assert values(folder) == [[4.0]]


def test_a_play_off(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, init_points=2, n_iters=0, scoring=ScoringConfig(playoff=2))
    rate_all(folder, [5, 6])
    with pytest.raises(Paused):
        compare_in_terminal(folder, Person(folder, "a", "u", "t", "q").scorer)
    person = Person(folder, "what", "t")
    compare_in_terminal(folder, person.scorer)
    assert person.questions == ["pair 2/2 " + person.questions[0].split()[-1]] * 2
    assert chosen_trial(load(folder)).number == 1
    assert load(folder).user_attrs["playoff"]["compared"] == 2


def test_a_sitting_goes_on_to_the_play_off_and_ends_when_nothing_comes(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, init_points=2, n_iters=0, scoring=ScoringConfig(playoff=2))
    person = Person(folder, "3", "4", "5", "6", "t", "d")
    sit_in_terminal(folder, person.scorer)
    assert values(folder) == [[3.5], [5.5]]
    assert load(folder).user_attrs["playoff"]["compared"] == 1
