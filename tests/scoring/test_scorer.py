"""What a scorer must have, said at the door."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import ImageStat

from bayes_merger.errors import ConfigError
from bayes_merger.scoring import (
    ImageToScore,
    Scorer,
    ScorerBase,
    check_importance,
    check_scale,
    check_scorer,
    score_images,
)
from tests.scoring.fixed import Fixed
from tests.scoring.pictures import judged


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
