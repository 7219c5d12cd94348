from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError, Paused, TrialFailed
from bayes_merger.scoring import Ledger, ManualScorer, Scorer, Viewer, score_images
from bayes_merger.scoring.people.dialogue import points_in
from tests.scoring.pictures import judged

THREE = [judged(0), judged(1), judged(2, payload="city", prompt="a city at night")]


class Person:
    """Answers from a list; an exception in it is raised, and after the last one there is nobody."""

    def __init__(self, path: Path, *answers: str | type[BaseException], confirm: bool = False) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []
        self.told: list[str] = []
        self.opened: list[str] = []
        viewer = Viewer("view", tell=lambda _: None, start=lambda command: self.opened.append(Path(command[-1]).name))
        self.scorer = ManualScorer(path, ask=self.ask, tell=self.told.append, shown=viewer, confirm=confirm)

    def ask(self, question: str) -> str:
        self.questions.append(question)
        answer = self.answers.pop(0) if self.answers else EOFError
        if isinstance(answer, str):
            return answer
        raise answer

    def places(self) -> list[str]:
        return [question.split("  ")[0] for question in self.questions]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ratings.jsonl"


def test_three_numbers_are_three_scores(path: Path) -> None:
    person = Person(path, "7", "7.5", "7,25")
    assert person.scorer.score(THREE) == [7.0, 7.5, 7.25]
    assert person.places() == ["image 1/3 portrait", "image 2/3 portrait", "image 3/3 city"]
    assert person.questions[0].endswith("[0-10, u undo, s later, v void, b best, p prompt, q pause] > ")
    assert all(rating.ms is not None for rating in Ledger(path).ratings())


def test_each_picture_is_opened_once_and_its_file_stays(path: Path) -> None:
    person = Person(path, "1", "nonsense", "2", "3")
    person.scorer.score(THREE)
    assert person.opened == ["c1-portrait-0.png", "c1-portrait-1.png", "c1-city-2.png"]
    assert all((path.parent / "to_rate" / name).is_file() for name in person.opened)


def test_a_picture_that_is_a_file_already_is_opened_from_there(path: Path, tmp_path: Path) -> None:
    person = Person(path, "1")
    person.scorer.score([judged(0, path=tmp_path / "kept.png")])
    assert person.opened == ["kept.png"]


@pytest.mark.parametrize(
    ("answer", "points"),
    [("0", 0), ("10", 10), ("7", 7), ("7.5", 7.5), ("7,5", 7.5), ("07", 7), ("10.0", 10)],
)
def test_numbers_people_type(answer: str, points: float) -> None:
    assert points_in(answer) == points


@pytest.mark.parametrize("answer", ["", "-1", "10.1", "11", "100", "nan", "inf", "1e1", "7.", ".5", "7 5", "x", "7..5"])
def test_what_is_no_rating_is_asked_again(path: Path, answer: str) -> None:
    person = Person(path, answer, " 4 ")
    assert person.scorer.score([judged(0)]) == [4.0]
    assert len(person.questions) == 2
    assert person.told


def test_undo_asks_for_the_last_one_again(path: Path) -> None:
    person = Person(path, "7", "8", "u", "3", "9")
    assert person.scorer.score(THREE) == [7.0, 3.0, 9.0]
    assert person.places()[2:] == ["image 3/3 city", "image 2/3 portrait", "image 3/3 city"]


def test_undo_goes_back_as_far_as_the_trial(path: Path) -> None:
    Ledger(path).record("another", "portrait", 0, 5)
    person = Person(path, "1", "2", "u", "u", "u", "7", "8", "9")
    assert person.scorer.score(THREE) == [7.0, 8.0, 9.0]
    assert person.told == ["  nothing to undo in this trial"]
    assert Ledger(path).rating("another", "portrait", 0) == 5


def test_later_puts_a_picture_at_the_end(path: Path) -> None:
    person = Person(path, "s", "8", "9", "s", "7")
    assert person.scorer.score(THREE) == [7.0, 8.0, 9.0]
    assert person.places() == [
        f"image {n}" for n in ("1/3 portrait", "2/3 portrait", "3/3 city", "1/3 portrait", "1/3 portrait")
    ]
    assert "last one" in person.told[0]


def test_prompt_and_picture_are_shown_on_demand(path: Path) -> None:
    person = Person(path, "p", "o", "5")
    person.scorer.score([THREE[2]])
    assert person.told == ["  a city at night"]
    assert person.opened == ["c1-city-2.png"] * 2


@pytest.mark.parametrize(("answer", "why"), [("q", "paused"), (EOFError, "nobody"), (KeyboardInterrupt, "interrupted")])
def test_a_person_may_go_at_any_time_and_is_not_asked_again_what_was_answered(
    path: Path, answer: str | type[BaseException], why: str
) -> None:
    with pytest.raises(Paused, match=f"{why}.*kept") as caught:
        Person(path, "7", "8", answer).scorer.score(THREE)
    assert caught.value.exit_code == 3
    back = Person(path, "9")
    assert back.scorer.score(THREE) == [7.0, 8.0, 9.0]
    assert back.places() == ["image 3/3 city"]


def test_what_was_rated_in_an_earlier_sitting_can_be_undone(path: Path) -> None:
    with pytest.raises(Paused):
        Person(path, "7", "q").scorer.score(THREE)
    assert Person(path, "u", "1", "2", "3").scorer.score(THREE) == [1.0, 2.0, 3.0]


def test_a_trial_rated_before_asks_nothing_and_opens_nothing(path: Path) -> None:
    Person(path, "7", "8", "9").scorer.score(THREE)
    back = Person(path)
    assert back.scorer.score(THREE) == [7.0, 8.0, 9.0]
    assert back.questions == back.opened == []


def test_another_candidate_is_asked_anew(path: Path) -> None:
    Person(path, "7").scorer.score([judged(0)])
    assert Person(path, "2").scorer.score([judged(0, candidate="c2")]) == [2.0]


def test_void_fails_the_trial_and_keeps_the_other_ratings(path: Path) -> None:
    with pytest.raises(TrialFailed, match="image 1 of portrait"):
        Person(path, "7", "v", "", "v", "v").scorer.score(THREE)
    again = Person(path, "5", "6")
    assert again.scorer.score(THREE) == [7.0, 5.0, 6.0]


def test_with_confirm_the_last_rating_can_be_undone_too(path: Path) -> None:
    person = Person(path, "7", "8", "9", "u", "3", "what", "", confirm=True)
    assert person.scorer.score(THREE) == [7.0, 8.0, 3.0]
    assert person.questions[-1].startswith("all 3 rated")
    assert Person(path, confirm=True).scorer.score(THREE) == [7.0, 8.0, 3.0]


def test_pausing_at_the_confirmation_loses_nothing(path: Path) -> None:
    with pytest.raises(Paused):
        Person(path, "7", "8", "9", "q", confirm=True).scorer.score(THREE)
    assert Person(path).scorer.score(THREE) == [7.0, 8.0, 9.0]


def test_the_person_learns_nothing_about_the_candidate(path: Path) -> None:
    person = Person(path, "7")
    person.scorer.score([judged(0, candidate="IN04-0.31")])
    assert "IN04" not in " ".join(person.questions + person.told)


def test_the_ledger_lies_in_the_studys_folder_unless_told_otherwise(tmp_path: Path) -> None:
    scorer = ManualScorer(ask=lambda _: "5")
    with pytest.raises(ConfigError, match=r"scorers\.manual\.ledger has no value"):
        scorer.prepare()
    scorer.prepare(tmp_path / "study")
    assert scorer.ledger is not None
    assert scorer.ledger.path == tmp_path / "study" / "ratings.jsonl"


def test_a_ledger_that_cannot_be_written_is_found_at_start_up(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        ManualScorer(tmp_path / "file" / "ratings.jsonl").prepare()


def test_an_unprepared_scorer_says_so() -> None:
    with pytest.raises(ConfigError, match="not prepared"):
        ManualScorer().score([judged(0)])


def test_it_is_a_scorer_on_the_scale_of_points(path: Path) -> None:
    person = Person(path, "7")
    assert isinstance(person.scorer, Scorer)
    assert [score.value for score in score_images(person.scorer, [judged(0)])] == [7.0]
    assert person.scorer.scale == (0.0, 10.0)
    assert person.scorer.interactive
    assert person.scorer.score([]) == []


def test_a_number_when_all_are_rated_is_not_dropped_in_silence(path: Path) -> None:
    person = Person(path, "7", "8", "", confirm=True)
    assert person.scorer.score(THREE[:1]) == [7.0]
    said = "  all are rated already: Enter goes on, u takes the last rating back; '8' does nothing"
    assert said in person.told
