from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageStat

from bayes_merger.errors import ConfigError, Paused, TrialFailed
from bayes_merger.scoring import (
    ImageToScore,
    Score,
    Scorer,
    ScorerBase,
    check_importance,
    check_scale,
    check_scorer,
    combine,
    picture_points,
    points,
    score_images,
)  # fmt: skip
from tests.scoring.pictures import judged

TEN = (0.0, 10.0)


class Fixed:
    """Says what it was told to say."""

    name = "fixed"
    scale = TEN
    importance = 1.0
    interactive = False

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def prepare(self, folder: Path | None = None) -> None:
        pass

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        return self.values


def score(value: float, payload: str = "a", index: int = 0, scorer: str = "laion") -> Score:
    return Score(scorer, payload, index, 1, value)


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
    with pytest.raises(TrialFailed, match="fixed"):
        score_images(Fixed(value), [judged()])


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


def test_judging_keeps_raw_scores_with_their_picture() -> None:
    assert score_images(Fixed(3, 4), [judged(0), judged(1)]) == [
        Score("fixed", "portrait", 0, 100, 3.0),
        Score("fixed", "portrait", 1, 101, 4.0),
    ]
    assert score_images(Fixed(), []) == []


def test_a_scorer_that_miscounts_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="1 scores for 2 images"):
        score_images(Fixed(3), [judged(0), judged(1)])


@pytest.mark.parametrize("values", [None, 5, "57", ["5", "7"], [5, None], [[1, 2], [3, 4]], {"a": 5, "b": 7}])
def test_a_scorer_that_gives_something_else_than_numbers_fails_the_trial(values: Any) -> None:
    scorer = Fixed()
    scorer.values = values
    with pytest.raises(TrialFailed, match=r"scorer fixed gave .* instead of one number for each image"):
        score_images(scorer, [judged(0), judged(1)])


class Raising(Fixed):
    """A scorer of somebody's own that gives up."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no face found"), "scorer fixed raised ValueError: no face found"),
        (AssertionError(), "scorer fixed raised AssertionError: AssertionError"),
        (SystemExit(3), "scorer fixed raised SystemExit: 3"),
        (RuntimeError("two\nlines"), "scorer fixed raised RuntimeError: two lines"),
        (MemoryError(), "scorer fixed raised MemoryError: MemoryError"),
    ],
)
def test_a_scorer_that_raises_fails_the_trial_with_its_reason(error: BaseException, said: str) -> None:
    with pytest.raises(TrialFailed, match=f"^{said}$") as found:
        score_images(Raising(error), [judged(0)])
    assert found.value.__cause__ is error


@pytest.mark.parametrize("error", [Paused("nobody is there"), KeyboardInterrupt()])
def test_a_wish_to_stop_is_no_failure(error: BaseException) -> None:
    with pytest.raises(type(error)):
        score_images(Raising(error), [judged(0)])


@pytest.mark.parametrize("value", [1e101, -1e308, 10**400])
def test_a_number_without_measure_fails_the_trial(value: float) -> None:
    with pytest.raises(TrialFailed):
        score_images(Fixed(value), [judged(0)])


def test_a_users_class_is_a_scorer_without_inheriting() -> None:
    assert isinstance(Fixed(), Scorer)
    scorer = Fixed()
    assert check_scorer("scorers.fixed", scorer) is scorer


def test_a_scorer_of_ones_own_needs_nothing_but_score() -> None:
    class Bright(ScorerBase):
        def score(self, images: Sequence[ImageToScore]) -> list[float]:
            return [ImageStat.Stat(image.image.convert("L")).mean[0] / 25.5 for image in images]

    scorer = check_scorer("scorers.bright", Bright("bright", importance=2, scale=[0, 5]))
    assert (scorer.importance, scorer.scale, scorer.interactive) == (2.0, (0.0, 5.0), False)
    assert 4 < score_images(scorer, [judged()])[0].value < 6
    much: Any = "much"
    with pytest.raises(ConfigError, match="scorer bright: importance must be a number, not 'much'"):
        Bright("bright", importance=much)


def test_what_a_scorer_lacks_is_named_at_the_door() -> None:
    class Bare:
        name = "bare"

        def score(self, images: Sequence[ImageToScore]) -> list[float]:
            return [5.0 for _ in images]

    with pytest.raises(
        ConfigError,
        match=r"^scorers\.bare: .*Bare has no `scale`, `importance`, `prepare`; .*ScorerBase",
    ):
        check_scorer("scorers.bare", Bare())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "other"}, "its name is 'other'; give it the one it is chosen by"),
        ({"name": 5}, "its name is 5"),
        ({"importance": "1"}, "importance must be a number, not '1'"),
        ({"scale": 10}, r"scale must be two numbers like \[0, 10\], not 10"),
        ({"interactive": "no"}, "`interactive` of Fixed must be True or False, not 'no'"),
        ({"score": 5}, "`score` of Fixed must be a method, not 5"),
    ],
)
def test_a_scorer_with_a_member_of_the_wrong_type_is_refused_at_the_door(changed: dict[str, Any], said: str) -> None:
    scorer = Fixed()
    for name, value in changed.items():
        setattr(scorer, name, value)
    with pytest.raises(ConfigError, match=rf"^scorers\.fixed: {said}"):
        check_scorer("scorers.fixed", scorer)


def test_importance_and_scale_are_checked() -> None:
    assert check_importance("scorer x", 2) == 2.0
    assert check_scale("scorer x", [0, 0.4]) == (0.0, 0.4)
    with pytest.raises(ConfigError, match="importance must be a number"):
        check_importance("scorer x", True)
    wrong: list[Any] = [[1, 1], [0, math.inf], [1], "ab", 3]
    for scale in wrong:
        with pytest.raises(ConfigError, match="scorer x: scale"):
            check_scale("scorer x", scale)


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = "import sys, bayes_merger.scoring; print({'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_mean_of_the_pictures_points_is_the_combination() -> None:
    scores = [score(2, "a"), score(6, "b"), score(10, "a", scorer="chad"), score(0, "b", scorer="chad")]
    payloads, scorers = {"a": 1, "b": 3}, {"laion": (1, TEN), "chad": (4, TEN)}
    # a: (2 + 4*10)/5 = 8.4, b: (6 + 0)/5 = 1.2, with shares of 1/2 and 3/2
    assert picture_points(scores, payloads, scorers) == pytest.approx({("a", 0): 4.2, ("b", 0): 1.8})
    assert combine(scores, payloads, scorers) == pytest.approx(3.0)


def test_a_picture_that_does_not_count_or_was_not_judged_by_all_has_no_points() -> None:
    scores = [score(2, "a"), score(6, "b"), score(3, "c"), score(10, "a", scorer="chad"), score(9, "c", scorer="chad")]
    found = picture_points(scores, {"a": 1, "b": 1, "c": 0}, {"laion": (1, TEN), "chad": (1, TEN)})
    assert found == {("a", 0): 6.0}
    assert picture_points([], {"a": 1}, {"laion": (1, TEN)}) == {}
