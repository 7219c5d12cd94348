from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.errors import Closed, ConfigError
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.run.record import complete_trials
from tests.run.rating.rated import a_study


def values(folder: RunFolder) -> list[list[float]]:
    return [trial.values for trial in complete_trials(load(folder))]


def test_ratings_become_the_score_of_a_trial_on_confirm(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    with Sitting(folder, "ann") as sitting:
        (trial,) = sitting.trials()
        assert [picture.payload for picture in trial.pictures] == ["p0", "p1"]
        assert [(picture.width, picture.height) for picture in trial.pictures] == [(8, 8)] * 2
        for picture, score in zip(trial.pictures, (6, 9), strict=True):
            sitting.rate(picture.id, score, 1200)
        assert [picture.score for picture in sitting.trials()[0].pictures] == [6, 9]
        assert values(folder) == []
        sitting.confirm(trial.id)
        assert sitting.trials() == []
    assert values(folder) == [[7.5]]


def test_a_trial_without_all_scores_cannot_be_confirmed(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    with Sitting(folder) as sitting:
        (trial,) = sitting.trials()
        sitting.rate(trial.pictures[0].id, 5)
        with pytest.raises(ConfigError, match="1 of this trial's pictures have no score"):
            sitting.confirm(trial.id)
    assert values(folder) == []


def test_a_second_page_is_told_that_a_trial_is_closed_and_spoils_nothing(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    with Sitting(folder, "ann") as first, Sitting(folder, "bob") as second:
        (trial,) = second.trials()
        for picture in first.trials()[0].pictures:
            first.rate(picture.id, 4)
        first.confirm(trial.id)
        with pytest.raises(Closed):
            second.rate(trial.pictures[0].id, 9)
        with pytest.raises(Closed):
            second.confirm(trial.id)
        with pytest.raises(Closed):
            second.void(trial.id)
        assert second.undo() is None
    with Sitting(folder) as late, pytest.raises(Closed):
        late.rate(trial.pictures[0].id, 9)
    assert values(folder) == [[4.0]]


def test_undo_goes_back_one_by_one_and_only_over_what_the_same_person_said(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    with Sitting(folder, "ann") as ann, Sitting(folder, "bob") as bob:
        first, second = ann.trials()[0].pictures
        ann.rate(first.id, 4)
        ann.rate(second.id, 5)
        bob.rate(second.id, 6)
        assert [picture.score for picture in bob.trials()[0].pictures] == [4, 6]
        assert ann.undo() == second.id
        assert [picture.score for picture in bob.trials()[0].pictures] == [4, 6]
        assert bob.undo() == second.id
        assert bob.undo() is None
        assert [picture.score for picture in bob.trials()[0].pictures] == [4, None]
        assert ann.undo() == first.id


def test_later_puts_a_trial_behind_the_others(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=3)
    with Sitting(folder) as sitting:
        a, b, c = (trial.id for trial in sitting.trials())
        sitting.later(a)
        sitting.later(b)
        assert [(trial.id, trial.later) for trial in sitting.trials()] == [(c, False), (a, True), (b, True)]
        sitting.undo()
        assert [trial.id for trial in sitting.trials()] == [b, c, a]


def test_a_void_trial_fails_with_its_reason(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path)
    with Sitting(folder) as sitting:
        sitting.void(sitting.trials()[0].pictures[0].id)
        assert sitting.trials() == []
    (trial,) = (trial for trial in load(folder).get_trials() if "reason" in trial.user_attrs)
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["reason"] == "marked by hand as one that cannot be judged"


def test_nothing_tells_one_candidate_from_another(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2)
    with Sitting(folder) as sitting:
        shown = [(trial.id, *(picture.id for picture in trial.pictures)) for trial in sitting.trials()]
    ids = [one for ids in shown for one in ids]
    assert len(set(ids)) == 6
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)


@pytest.mark.parametrize("what", ["", "../../study.db", "0" * 16, "\x00", "é" * 1000])
def test_what_was_never_shown_is_nothing(tmp_path: Path, what: str) -> None:
    folder, _ = a_study(tmp_path)
    with Sitting(folder) as sitting:
        for ask in (lambda: sitting.rate(what, 5), lambda: sitting.path_of(what), lambda: sitting.confirm(what)):
            with pytest.raises(ConfigError, match="no such picture"):
                ask()
    assert not folder.ratings.exists()


def test_the_best_picture_has_the_same_prompt(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=3)
    with Sitting(folder) as sitting:
        for trial, score in zip(sitting.trials()[:2], (8, 3), strict=True):
            for picture in trial.pictures:
                sitting.rate(picture.id, score)
            sitting.confirm(trial.id)
        asked = sitting.trials()[0].pictures[1]
        best = sitting.best_picture(asked.id)
        assert best is not None
        assert (best.payload, best.path.name, best.path.parent.name) == ("p1", "p1-0.png", "0000")
        assert sitting.path_of(best.id) == best.path


def test_how_far_a_study_is(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2)
    with Sitting(folder) as sitting:
        before = sitting.state()
        assert (before.done, before.total, before.waiting, before.pictures, before.left) == (0, 10, 2, 2, None)
        sitting.rate(sitting.trials()[0].pictures[0].id, 5, 2000)
        after = sitting.state()
        assert (after.rated, after.seconds, after.left) == (1, 2.0, 38.0)
        assert before.version != after.version == sitting.state().version
