from __future__ import annotations

import math
import subprocess
import sys

import pytest

from bayes_merger.errors import ConfigError, TrialFailed
from bayes_merger.scoring import Score, Scorer, check_importance, check_scale, combine, judge, picture_points, points
from tests.scoring.pictures import judged

TEN = (0.0, 10.0)


class Fixed:
    """Says what it was told to say."""

    name = "fixed"
    scale = TEN
    importance = 1.0

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def prepare(self, folder=None) -> None:
        pass

    def score(self, images) -> list[float]:
        return self.values


def score(value: float, payload: str = "a", index: int = 0, scorer: str = "laion") -> Score:
    return Score(scorer, payload, index, 1, value)


def test_one_score_is_the_result():
    assert combine([score(6.5)], {"a": 1}, {"laion": (1, TEN)}) == 6.5


def test_images_count_with_the_importance_of_their_payload():
    scores = [score(4, "a"), score(8, "b")]
    assert combine(scores, {"a": 3, "b": 1}, {"laion": (1, TEN)}) == 5.0


def test_every_image_of_a_batch_counts_fully():
    scores = [score(4, "a", 0), score(4, "a", 1), score(7, "b")]
    assert combine(scores, {"a": 1, "b": 1}, {"laion": (1, TEN)}) == 5.0


def test_scorers_meet_on_the_scale_of_points():
    scores = [score(6), score(0.3, scorer="clip")]  # 6 points and 7.5 points
    assert combine(scores, {"a": 1}, {"laion": (1, TEN), "clip": (2, (0.0, 0.4))}) == pytest.approx(7.0)


def test_payloads_and_scorers_are_weighted_together():
    scores = [score(2, "a"), score(6, "b"), score(10, "a", scorer="chad"), score(0, "b", scorer="chad")]
    # laion: (2 + 3*6)/4 = 5, chad: (10 + 0)/4 = 2.5; (5 + 4*2.5)/5
    assert combine(scores, {"a": 1, "b": 3}, {"laion": (1, TEN), "chad": (4, TEN)}) == pytest.approx(3.0)


def test_a_falling_scale_turns_distance_into_points():
    assert points(0.25, (1.0, 0.0)) == 7.5


def test_points_are_not_clipped():
    assert points(11, TEN) == 11.0
    assert points(-1, TEN) == -1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_raw_score_that_is_no_number_fails_the_trial(value):
    with pytest.raises(TrialFailed, match="image 2 of a"):
        combine([score(value, index=2)], {"a": 1}, {"laion": (1, TEN)})
    with pytest.raises(TrialFailed, match="fixed"):
        judge(Fixed(value), [judged()])


def test_a_payload_nobody_scored_fails_the_trial():
    with pytest.raises(TrialFailed, match="payload b has no score"):
        combine([score(5)], {"a": 1, "b": 1}, {"laion": (1, TEN)})


def test_an_image_one_scorer_left_out_fails_the_trial():
    scores = [score(5, index=0), score(5, index=1), score(5, index=0, scorer="chad")]
    with pytest.raises(TrialFailed, match="chad gave no score for image 1 of a"):
        combine(scores, {"a": 1}, {"laion": (1, TEN), "chad": (1, TEN)})


def test_a_scorer_without_any_score_fails_the_trial():
    with pytest.raises(TrialFailed, match="chad"):
        combine([score(5)], {"a": 1}, {"laion": (1, TEN), "chad": (1, TEN)})


def test_a_score_given_twice_fails_the_trial():
    with pytest.raises(TrialFailed, match="twice"):
        combine([score(5), score(6)], {"a": 1}, {"laion": (1, TEN)})


@pytest.mark.parametrize(
    ("payloads", "scorers", "named"),
    [
        ({"a": 0}, {"laion": (1, TEN)}, "payload"),
        ({"a": 1}, {"laion": (0, TEN)}, "scorer"),
        ({"a": 1}, {}, "scorer"),
        ({"a": -1}, {"laion": (1, TEN)}, "payload a"),
        ({"a": math.nan}, {"laion": (1, TEN)}, "payload a"),
        ({"a": 1}, {"laion": ("1", TEN)}, "scorer laion"),
        ({"b": 1}, {"laion": (1, TEN)}, "unknown payload 'a'"),
        ({"a": 1}, {"lion": (1, TEN)}, "did you mean lion"),
    ],
)
def test_importance_that_makes_no_sense_is_the_configurations_fault(payloads, scorers, named):
    with pytest.raises(ConfigError, match=named):
        combine([score(5)], payloads, scorers)


def test_a_scorer_of_no_importance_only_watches():
    scores = [score(5), score(math.nan, scorer="watcher")]
    assert combine(scores, {"a": 1}, {"laion": (1, TEN), "watcher": (0, TEN)}) == 5.0


def test_a_payload_of_no_importance_only_watches():
    scores = [score(5), score(math.nan, "b")]
    assert combine(scores, {"a": 1, "b": 0}, {"laion": (1, TEN)}) == 5.0


def test_the_order_of_scores_does_not_matter():
    scores = [score(0.1 * n, index=n) for n in range(20)]
    scorers = {"laion": (1, TEN)}
    assert combine(scores, {"a": 1}, scorers) == combine(scores[::-1], {"a": 1}, scorers)


def test_judging_keeps_raw_scores_with_their_picture():
    assert judge(Fixed(3, 4), [judged(0), judged(1)]) == [
        Score("fixed", "portrait", 0, 100, 3.0),
        Score("fixed", "portrait", 1, 101, 4.0),
    ]
    assert judge(Fixed(), []) == []


def test_a_scorer_that_miscounts_fails_the_trial():
    with pytest.raises(TrialFailed, match="1 scores for 2 images"):
        judge(Fixed(3), [judged(0), judged(1)])


def test_a_users_class_is_a_scorer_without_inheriting():
    assert isinstance(Fixed(), Scorer)


def test_importance_and_scale_are_checked():
    assert check_importance("scorer x", 2) == 2.0
    assert check_scale("scorer x", [0, 0.4]) == (0.0, 0.4)
    with pytest.raises(ConfigError, match="importance must be a number"):
        check_importance("scorer x", True)
    for scale in ([1, 1], [0, math.inf], [1], "ab", 3):
        with pytest.raises(ConfigError, match="scorer x: scale"):
            check_scale("scorer x", scale)


def test_importing_the_room_loads_nothing_heavy():
    code = "import sys, bayes_merger.scoring; print({'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_mean_of_the_pictures_points_is_the_combination():
    scores = [score(2, "a"), score(6, "b"), score(10, "a", scorer="chad"), score(0, "b", scorer="chad")]
    payloads, scorers = {"a": 1, "b": 3}, {"laion": (1, TEN), "chad": (4, TEN)}
    # a: (2 + 4*10)/5 = 8.4, b: (6 + 0)/5 = 1.2, with shares of 1/2 and 3/2
    assert picture_points(scores, payloads, scorers) == pytest.approx({("a", 0): 4.2, ("b", 0): 1.8})
    assert combine(scores, payloads, scorers) == pytest.approx(3.0)


def test_a_picture_that_does_not_count_or_was_not_judged_by_all_has_no_points():
    scores = [score(2, "a"), score(6, "b"), score(3, "c"), score(10, "a", scorer="chad"), score(9, "c", scorer="chad")]
    found = picture_points(scores, {"a": 1, "b": 1, "c": 0}, {"laion": (1, TEN), "chad": (1, TEN)})
    assert found == {("a", 0): 6.0}
    assert picture_points([], {"a": 1}, {"laion": (1, TEN)}) == {}
