"""One number for a merge: literal points, shares, means and penalties."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bayes_merger.errors import ConfigError, TrialFailed
from bayes_merger.scoring.combination import Combination, Judge, points
from bayes_merger.scoring.scorer import Scale, Score

TEN = (0.0, 10.0)

Scorers = Mapping[str, tuple[float, Scale]]


def score(value: float, payload: str = "a", index: int = 0, scorer: str = "laion") -> Score:
    return Score(scorer, payload, index, 1, value)


def of(payloads: Mapping[str, float], scorers: Scorers) -> Combination:
    return Combination(payloads, {name: Judge(*each) for name, each in scorers.items()})


def combine(scores: Sequence[Score], payloads: Mapping[str, float], scorers: Scorers) -> float:
    return of(payloads, scorers).value(scores)


def points_of_pictures(
    scores: Sequence[Score], payloads: Mapping[str, float], scorers: Scorers
) -> dict[tuple[str, int], float]:
    return of(payloads, scorers).picture_points(scores)


def test_one_score_is_the_result() -> None:
    assert combine([score(6.5)], {"a": 1}, {"laion": (1, TEN)}) == 6.5


def test_images_count_with_the_importance_of_their_payload() -> None:
    scores = [score(4, "a"), score(8, "b")]
    assert combine(scores, {"a": 3, "b": 1}, {"laion": (1, TEN)}) == 5.0


def test_every_image_of_a_batch_counts_fully() -> None:
    scores = [score(4, "a", 0), score(4, "a", 1), score(7, "b")]
    assert combine(scores, {"a": 1, "b": 1}, {"laion": (1, TEN)}) == 5.0


def test_scorers_meet_on_the_scale_of_points() -> None:
    scores = [score(6), score(0.3, scorer="clip")]  # 6 points and 7.5 points
    assert combine(scores, {"a": 1}, {"laion": (1, TEN), "clip": (2, (0.0, 0.4))}) == pytest.approx(7.0)


def test_payloads_and_scorers_are_weighted_together() -> None:
    scores = [score(2, "a"), score(6, "b"), score(10, "a", scorer="chad"), score(0, "b", scorer="chad")]
    # laion: (2 + 3*6)/4 = 5, chad: (10 + 0)/4 = 2.5; (5 + 4*2.5)/5
    assert combine(scores, {"a": 1, "b": 3}, {"laion": (1, TEN), "chad": (4, TEN)}) == pytest.approx(3.0)


def test_a_falling_scale_turns_distance_into_points() -> None:
    assert points(0.25, (1.0, 0.0)) == 7.5


def test_points_are_not_clipped() -> None:
    assert points(11, TEN) == 11.0
    assert points(-1, TEN) == -1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_raw_score_that_is_no_number_fails_the_trial(value: float) -> None:
    with pytest.raises(TrialFailed, match="image 2 of a"):
        combine([score(value, index=2)], {"a": 1}, {"laion": (1, TEN)})


def test_a_payload_nobody_scored_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="payload b has no score"):
        combine([score(5)], {"a": 1, "b": 1}, {"laion": (1, TEN)})


def test_an_image_one_scorer_left_out_fails_the_trial() -> None:
    scores = [score(5, index=0), score(5, index=1), score(5, index=0, scorer="chad")]
    with pytest.raises(TrialFailed, match="chad gave no score for image 1 of a"):
        combine(scores, {"a": 1}, {"laion": (1, TEN), "chad": (1, TEN)})


def test_a_scorer_without_any_score_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="chad"):
        combine([score(5)], {"a": 1}, {"laion": (1, TEN), "chad": (1, TEN)})


def test_a_score_given_twice_fails_the_trial() -> None:
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
def test_importance_that_makes_no_sense_is_the_configurations_fault(
    payloads: dict[str, float], scorers: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        combine([score(5)], payloads, scorers)


def test_a_scorer_of_no_importance_only_watches() -> None:
    scores = [score(5), score(math.nan, scorer="watcher")]
    assert combine(scores, {"a": 1}, {"laion": (1, TEN), "watcher": (0, TEN)}) == 5.0


def test_a_payload_of_no_importance_only_watches() -> None:
    scores = [score(5), score(math.nan, "b")]
    assert combine(scores, {"a": 1, "b": 0}, {"laion": (1, TEN)}) == 5.0


def test_the_order_of_scores_does_not_matter() -> None:
    scores = [score(0.1 * n, index=n) for n in range(20)]
    scorers = {"laion": (1, TEN)}
    assert combine(scores, {"a": 1}, scorers) == combine(scores[::-1], {"a": 1}, scorers)


def test_the_mean_of_the_pictures_points_is_the_combination() -> None:
    scores = [score(2, "a"), score(6, "b"), score(10, "a", scorer="chad"), score(0, "b", scorer="chad")]
    payloads, scorers = {"a": 1, "b": 3}, {"laion": (1, TEN), "chad": (4, TEN)}
    # a: (2 + 4*10)/5 = 8.4, b: (6 + 0)/5 = 1.2, with shares of 1/2 and 3/2
    assert points_of_pictures(scores, payloads, scorers) == pytest.approx({("a", 0): 4.2, ("b", 0): 1.8})
    assert combine(scores, payloads, scorers) == pytest.approx(3.0)


def test_a_picture_that_does_not_count_or_was_not_judged_by_all_has_no_points() -> None:
    scores = [score(2, "a"), score(6, "b"), score(3, "c"), score(10, "a", scorer="chad"), score(9, "c", scorer="chad")]
    found = points_of_pictures(scores, {"a": 1, "b": 1, "c": 0}, {"laion": (1, TEN), "chad": (1, TEN)})
    assert found == {("a", 0): 6.0}
    assert points_of_pictures([], {"a": 1}, {"laion": (1, TEN)}) == {}


BOTH = [score(4, "a"), score(8, "b"), score(9, "a", scorer="clip"), score(1, "b", scorer="clip")]


def test_a_scorer_that_judges_some_payloads_leaves_the_others_their_whole_importance() -> None:
    known = Combination({"a": 1, "b": 1}, {"laion": Judge(), "clip": Judge(3.0, payloads={"b": 1.0})})
    # a: laion's 4 alone; b: (8 + 3 * 1) / 4 = 2.75
    assert known.value(BOTH) == pytest.approx(3.375)
    assert known.picture_points(BOTH) == pytest.approx({("a", 0): 4.0, ("b", 0): 2.75})
    assert known.value(BOTH[:2] + BOTH[3:]) == pytest.approx(3.375), "what it does not judge it need not have scored"


def test_a_scorer_has_a_share_in_each_payload() -> None:
    known = Combination({"a": 1, "b": 3}, {"laion": Judge(), "clip": Judge(1.0, payloads={"a": 4.0, "b": 0.0})})
    # a: (4 + 4 * 9) / 5 = 8, b: 8
    assert known.value(BOTH) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("mean", "a", "b"), [("arithmetic", 6.5, 4.5), ("geometric", 6.0, 8**0.5), ("harmonic", 72 / 13, 16 / 9)]
)
def test_the_mean_is_of_the_scorers_in_each_picture(mean: str, a: float, b: float) -> None:
    known = Combination({"a": 3, "b": 1}, {"laion": Judge(), "clip": Judge()}, mean)
    assert known.value(BOTH) == pytest.approx((3 * a + b) / 4)
    assert known.picture_points(BOTH) == pytest.approx({("a", 0): 1.5 * a, ("b", 0): 0.5 * b})


@pytest.mark.parametrize(("mean", "expected"), [("geometric", (0.01 * 9**3) ** 0.25), ("harmonic", 4 / (100 + 3 / 9))])
def test_points_below_nothing_count_as_next_to_nothing(mean: str, expected: float) -> None:
    known = Combination({"a": 1}, {"laion": Judge(), "clip": Judge(3.0)}, mean)
    assert known.value([score(-5, "a"), score(9, "a", scorer="clip")]) == pytest.approx(expected)


def test_a_penalty_takes_points_off_and_is_in_no_mean() -> None:
    judges = {"laion": Judge(), "black": Judge(0.0, (0.0, 1.0), penalty=3.0)}
    known = Combination({"a": 1, "b": 1}, judges)
    scores = [score(6, "a"), score(8, "b"), score(0.0, "a", scorer="black"), score(0.75, "b", scorer="black")]
    # a: 6 - 3, b: 8 - 3/4
    assert known.value(scores) == pytest.approx(5.125)
    assert known.picture_points(scores) == pytest.approx({("a", 0): 3.0, ("b", 0): 7.25})
    beyond = [score(6, "a"), score(8, "b"), score(-9.0, "a", scorer="black"), score(2.0, "b", scorer="black")]
    assert known.value(beyond) == pytest.approx(5.5), "never more than the penalty, never a reward"
    with pytest.raises(TrialFailed, match="black gave no score for image 0 of b"):
        known.value(scores[:3])
    assert known.watchers() == []


def test_hold_outs_are_those_that_neither_count_nor_punish() -> None:
    judges = {"laion": Judge(), "clip": Judge(0.0), "black": Judge(0.0, penalty=1.0)}
    assert Combination({"a": 1}, judges).watchers() == ["clip"]


def test_a_payload_that_no_scorer_counts_for_is_refused() -> None:
    known = Combination({"a": 1, "b": 1}, {"laion": Judge(payloads={"a": 1.0}), "clip": Judge(0.0)})
    with pytest.raises(ConfigError, match=r"no scorer counts for payload b; name it at one of laion"):
        known.check()
    Combination({"a": 1, "b": 0}, known.judges).check()
    with pytest.raises(ConfigError, match=r"scoring.mean: 'median' is not one of arithmetic, geometric, harmonic"):
        Combination({"a": 1}, {"laion": Judge()}, "median").check()


def test_a_judge_alone_is_heard_whatever_its_importance() -> None:
    known = Combination({"a": 1, "b": 1}, {"laion": Judge(), "clip": Judge(0.0, (0.0, 20.0), {"b": 2.0})}, "harmonic")
    alone = known.alone("clip")
    assert alone.value([score(5, "b", scorer="clip")]) == 2.5
