"""The search space: rules in, one number per block out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.search.space.building import build_space
from bayes_merger.search.space.guide import space_from_guide
from bayes_merger.search.space.space import Parameter, SearchSpace

BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
ALPHA = {"alpha": (0.0, 1.0)}
BOTH = {"alpha": (0.0, 1.0), "beta": (0.0, 1.0)}


def names(space: SearchSpace) -> list[str]:
    return [parameter.name for parameter in space.parameters]


def test_without_rules_every_block_is_searched() -> None:
    space = build_space(BLOCKS, ALPHA)
    assert len(space.parameters) == 26
    assert space.parameters[0] == Parameter("BASE.alpha", 0.0, 1.0, ("BASE.alpha",))
    assert names(space)[13] == "M00.alpha"
    assert names(space)[25] == "OUT11.alpha"
    assert space.fixed == {}


def test_a_second_weight_doubles_the_space() -> None:
    space = build_space(BLOCKS, BOTH)
    assert len(space.parameters) == 52
    assert names(space)[26] == "BASE.beta"


def test_the_guide_of_the_original_is_understood() -> None:
    space = space_from_guide(
        BLOCKS,
        BOTH,
        {
            "frozen_params": {"block_0_alpha": 0.9, "base_alpha": 0.5},
            "custom_ranges": {"block_1_beta": [0.1, 0.5], "block_2_beta": [0.4, 1.0]},
            "groups": [
                ["block_1_alpha", "block_2_alpha", "block_3_alpha"],
                ["block_3_beta", "block_4_beta", "base_beta"],
            ],
        },
    )
    by_name = {parameter.name: parameter for parameter in space.parameters}
    assert len(space.parameters) == 52 - 2 - 2 - 2
    assert dict(space.fixed) == {"BASE.alpha": 0.5, "IN00.alpha": 0.9}
    assert (by_name["IN01.beta"].low, by_name["IN01.beta"].high) == (0.1, 0.5)
    assert by_name["IN01.alpha"].drives == ("IN01.alpha", "IN02.alpha", "IN03.alpha")
    assert by_name["BASE.beta"].drives == ("BASE.beta", "IN03.beta", "IN04.beta")


def test_the_last_numbered_block_is_out11() -> None:
    space = build_space(BLOCKS, ALPHA, frozen={"block_24_alpha": 0.25, "block_12_alpha": 0.75})
    assert dict(space.fixed) == {"M00.alpha": 0.75, "OUT11.alpha": 0.25}


@pytest.mark.parametrize(
    ("rule", "count"),
    [("IN00.alpha", 1), ("in00.ALPHA", 1), ("IN00", 2), ("IN00-IN05", 12), ("IN00-IN05.beta", 6), ("beta", 26)],
)
def test_a_name_can_mean_one_or_many(rule: str, count: int) -> None:
    assert len(build_space(BLOCKS, BOTH, frozen={rule: 0.5}).fixed) == count


def test_nested_rules_are_the_same_as_dotted_ones() -> None:
    assert build_space(BLOCKS, ALPHA, frozen={"IN00": {"alpha": 0.5}}) == build_space(
        BLOCKS, ALPHA, frozen={"IN00.alpha": 0.5}
    )


def test_a_group_of_bare_blocks_is_one_parameter_per_weight() -> None:
    space = build_space(BLOCKS, BOTH, groups=[["IN00", "IN01"]])
    assert len(space.parameters) == 50
    drives = [parameter.drives for parameter in space.parameters if len(parameter.drives) > 1]
    assert drives == [("IN00.alpha", "IN01.alpha"), ("IN00.beta", "IN01.beta")]


def test_two_weights_can_share_one_number_when_said_so() -> None:
    space = build_space(BLOCKS, BOTH, groups=[["IN00.alpha", "IN00.beta"]])
    values = dict.fromkeys(names(space), 0.0) | {"IN00.alpha": 0.75}
    assert space.assemble(values)["beta"]["IN00"] == 0.75


def test_a_group_is_named_by_its_first_block_however_it_is_listed() -> None:
    assert "IN03.alpha" in names(build_space(BLOCKS, ALPHA, groups=[["OUT03.alpha", "IN03.alpha"]]))


def test_a_group_of_one_is_an_ordinary_parameter() -> None:
    assert build_space(BLOCKS, ALPHA, groups=[["IN00.alpha"]]) == build_space(BLOCKS, ALPHA)


def test_one_frozen_member_freezes_the_group() -> None:
    space = build_space(BLOCKS, ALPHA, frozen={"IN01.alpha": 0.3}, groups=[["IN00-IN02"]])
    assert dict(space.fixed) == {"IN00.alpha": 0.3, "IN01.alpha": 0.3, "IN02.alpha": 0.3}
    assert len(space.parameters) == 23


def test_values_become_weights_and_back() -> None:
    space = build_space(BLOCKS, ALPHA, frozen={"M00": 0.25}, groups=[["IN00-IN11"]])
    values = dict.fromkeys(names(space), 0.5) | {"IN00.alpha": 0.1, "BASE.alpha": 1.0}
    weights = space.assemble(values)
    assert list(weights) == ["alpha"]
    assert list(weights["alpha"]) == list(BLOCKS)
    assert weights["alpha"] == {
        "BASE": 1.0,
        **{f"IN{i:02}": 0.1 for i in range(12)},
        "M00": 0.25,
        **{f"OUT{i:02}": 0.5 for i in range(12)},
    }
    assert space.values_of(weights) == values


def test_a_space_survives_json() -> None:
    space = build_space(BLOCKS, BOTH, frozen={"M00": 0.1}, ranges={"OUT00.beta": [-0.5, 1.5]}, groups=[["IN00-IN03"]])
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_anchors_are_pure_a_pure_b_and_the_even_mix() -> None:
    anchors = build_space(("BASE", "IN00"), ALPHA).anchors()
    assert anchors == [
        {"BASE.alpha": 0.0, "IN00.alpha": 0.0},
        {"BASE.alpha": 1.0, "IN00.alpha": 1.0},
        {"BASE.alpha": 0.5, "IN00.alpha": 0.5},
    ]


def test_anchors_are_clipped_into_the_ranges_and_never_repeated() -> None:
    anchors = build_space(("BASE",), ALPHA, ranges={"BASE": [0.5, 0.75]}).anchors()
    assert anchors == [{"BASE.alpha": 0.5}, {"BASE.alpha": 0.75}]


def test_distributions_are_declared_in_order() -> None:
    distributions = build_space(("BASE", "IN00"), ALPHA, ranges={"IN00": [0.2, 0.8]}).distributions()
    assert list(distributions) == ["BASE.alpha", "IN00.alpha"]
    assert (distributions["IN00.alpha"].low, distributions["IN00.alpha"].high) == (0.2, 0.8)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"frozen": {"IN12.alpha": 0.5}}, "unknown block 'IN12'; did you mean IN1"),
        ({"frozen": {"IN0O": 0.5}}, "unknown block 'IN0O'"),
        ({"frozen": {"IN00.alhpa": 0.5}}, "no weight 'alhpa'; did you mean alpha"),
        ({"frozen": {"IN00.beta": 0.5}}, "no weight 'beta'"),
        ({"frozen": {"alpah": 0.5}}, "did you mean alpha"),
        ({"frozen": {"block_25_alpha": 0.5}}, "no block 25; they run from block_0 (IN00) to block_24 (OUT11)"),
        ({"frozen": {"base_gamma": 0.5}}, "no weight 'gamma'"),
        ({"frozen": {"IN05-IN01": 0.5}}, "IN05 comes after IN01; write IN01-IN05"),
        ({"frozen": {"IN00-": 0.5}}, "unknown block ''"),
        ({"frozen": {"": 0.5}}, "not the name of a parameter"),
        ({"frozen": {3: 0.5}}, "3 is not the name of a parameter"),
        ({"frozen": {"IN00.alpha": 0.5, "block_0_alpha": 0.5}}, "IN00.alpha and block_0_alpha both set IN00.alpha"),
        ({"frozen": {"IN00": 0.5, "IN00-IN03": 0.5}}, "both set IN00.alpha"),
        ({"ranges": {"alpha": [0, 0.5], "IN00": [0, 1]}}, "alpha and IN00 both set IN00.alpha"),
        ({"frozen": {"IN00": {"alpha": 0.5}, "IN00.alpha": 0.5}}, "IN00.alpha is set twice"),
        ({"frozen": {"IN00": 1.5}}, "IN00.alpha = 1.5 is outside its range 0 ... 1"),
        ({"frozen": {"IN00": 0.1}, "ranges": {"IN00": [0.2, 0.4]}}, "0.1 is outside its range 0.2 ... 0.4"),
        ({"frozen": {"IN00": "0.5"}}, "'0.5' is not a number"),
        ({"frozen": {"IN00": True}}, "True is not a number"),
        ({"frozen": {"IN00": None}}, "None is not a number"),
        ({"frozen": {"IN00": math.nan}}, "nan is not a number"),
        ({"frozen": ["IN00"]}, "is not a mapping"),
        ({"frozen": {"alpha": 0.5}}, "nothing is left to search"),
        ({"ranges": {"IN00": [0.8, 0.2]}}, "runs backwards; write [0.2, 0.8]"),
        ({"ranges": {"IN00": [0.5, 0.5]}}, "freeze it at 0.5"),
        ({"ranges": {"IN00": [0.0, 9.0]}}, "reaches outside -1 ... 2"),
        ({"ranges": {"IN00": [0.0, math.inf]}}, "inf is not a number"),
        ({"ranges": {"IN00": 0.5}}, "0.5 is not a range"),
        ({"ranges": {"IN00": "01"}}, "'01' is not a range"),
        ({"ranges": {"IN00": [0.1, 0.2, 0.3]}}, "is not a range"),
        ({"groups": [["IN00", "IN01"], ["IN01", "IN02"]]}, "IN01.alpha is in two groups"),
        ({"groups": [["IN00", "block_0_alpha"]]}, "IN00.alpha is in two groups, or twice in one"),
        ({"groups": [["IN00", "IN99"]]}, "unknown block 'IN99'"),
        ({"groups": [[]]}, "not a list of names"),
        ({"groups": ["IN00"]}, "'IN00' is not a list of names"),
        ({"groups": "IN00"}, "is not a list of lists"),
        ({"groups": [["IN00", "IN01"]], "ranges": {"IN00": [0.2, 0.4]}}, "share one number but have different ranges"),
        ({"groups": [["IN00", "IN01"]], "frozen": {"IN00": 0.2, "IN01": 0.3}}, "frozen at 0.2 and 0.3"),
    ],
)
def test_a_rule_that_makes_no_sense_is_an_error(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"\w") as error:
        build_space(BLOCKS, ALPHA, **rules)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_group_must_say_which_weight_when_others_do() -> None:
    with pytest.raises(ConfigError, match=r"IN01 does not say which weight.* write IN01.alpha"):
        build_space(BLOCKS, BOTH, groups=[["IN00.alpha", "IN01"]])


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ({"freeze": {}}, "unknown rule 'freeze'; did you mean"),
        ({"frozen": {"IN00": 0.5}, "frozen_params": {"IN01": 0.5}}, "under two names"),
    ],
)
def test_a_guide_with_odd_keys_is_an_error(guide: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_from_guide(BLOCKS, ALPHA, guide)


def test_a_guide_may_leave_its_keys_empty() -> None:
    assert space_from_guide(BLOCKS, ALPHA, {"frozen": None, "ranges": {}, "groups": []}) == build_space(BLOCKS, ALPHA)


def test_a_method_with_a_wide_range_keeps_it() -> None:
    space = build_space(("BASE", "IN00"), {"alpha": (0.0, 5.0)}, ranges={"IN00": [0.0, 4.0]})
    assert [parameter.high for parameter in space.parameters] == [5.0, 4.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"BASE.alpha": 0.5}, "IN00.alpha has no value"),
        ({"BASE.alpha": 0.5, "IN00.alpha": 0.5, "IN01.alpha": 0.5}, "IN01.alpha is not searched here"),
        ({"BASE.alpha": 0.5, "IN00.alpha": 1.7}, "IN00.alpha = 1.7 is outside 0 ... 1"),
        ({"BASE.alpha": 0.5, "IN00.alpha": math.nan}, "nan is not a number"),
    ],
)
def test_values_that_do_not_fit_the_space_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_space(("BASE", "IN00"), ALPHA).assemble(values)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"alpha": {"BASE": 0.5, "IN00": 0.5, "IN01": 0.5}},
            "BASE.alpha = 0.5 cannot be reached: it is frozen at 0.25",
        ),
        ({"alpha": {"BASE": 0.25, "IN00": 0.5, "IN01": 0.6}}, "IN00.alpha, IN01.alpha cannot differ"),
        ({"alpha": {"BASE": 0.25, "IN00": 1.5, "IN01": 1.5}}, "1.5 is outside"),
        ({"alpha": {"BASE": 0.25}}, "no other"),
        ({"gamma": {"BASE": 0.25}}, "no other"),
    ],
)
def test_weights_no_values_lead_to_are_refused(weights: dict[str, dict[str, float]], message: str) -> None:
    space = build_space(("BASE", "IN00", "IN01"), ALPHA, frozen={"BASE": 0.25}, groups=[["IN00", "IN01"]])
    with pytest.raises(ConfigError, match=message):
        space.values_of(weights)


def test_the_space_is_light_to_import() -> None:
    code = (
        "import sys, bayes_merger.search; sys.exit(bool({'optuna', 'bayes_opt', 'numpy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


FACE = Parameter("face", 0.0, 1.0, ("face.alpha",))


def test_a_ratio_is_searched_beside_the_blocks_and_stands_among_the_weights() -> None:
    space = build_space(("BASE", "IN00"), ALPHA, extra_parameters=[FACE])
    assert names(space) == ["BASE.alpha", "IN00.alpha", "face"]
    values = {"BASE.alpha": 0.1, "IN00.alpha": 0.2, "face": 0.3}
    weights = space.assemble(values)
    assert weights == {"alpha": {"BASE": 0.1, "IN00": 0.2, "face": 0.3}}
    assert space.values_of(weights) == values
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert [row["face"] for row in space.anchors()] == [0, 1, 0.5]
    with pytest.raises(ConfigError, match="face has no value"):
        space.check({"BASE.alpha": 0.1, "IN00.alpha": 0.2})


def test_a_ratio_may_drive_several_weights_be_frozen_and_have_another_range() -> None:
    both = Parameter("face", 0.0, 1.0, ("face.alpha", "face.beta"))
    rules = {"frozen": {"IN00": 0.5, "face": 0.25}}
    space = space_from_guide(("BASE", "IN00"), BOTH, rules, [both])
    assert names(space) == ["BASE.alpha", "BASE.beta"]
    weights = space.assemble({"BASE.alpha": 0.1, "BASE.beta": 0.2})
    assert weights == {
        "alpha": {"BASE": 0.1, "IN00": 0.5, "face": 0.25},
        "beta": {"BASE": 0.2, "IN00": 0.5, "face": 0.25},
    }
    assert space.values_of(weights) == {"BASE.alpha": 0.1, "BASE.beta": 0.2}
    wide = space_from_guide(("BASE",), ALPHA, {"ranges": {"face": [-0.5, 1.5]}}, [FACE])
    assert wide.parameters[-1] == Parameter("face", -0.5, 1.5, ("face.alpha",))
    only = space_from_guide(("BASE",), ALPHA, {"frozen": {"BASE": 0.5}}, [FACE])
    assert names(only) == ["face"]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"frozen": {"face": 2}}, "face = 2 is outside its range"),
        ({"frozen": {"face": "x"}}, "frozen: face: 'x' is not a number"),
        ({"ranges": {"face": [0.5, 0.1]}}, "ranges: face: .* runs backwards"),
        ({"ranges": {"face": [-9, 1]}}, "too far"),
        ({"frozen": {"fcae": 0.5}}, "unknown block 'fcae'"),
        ({"frozen": {"face": 0.5, "BASE": 0.5}}, "nothing is left to search"),
    ],
)
def test_a_rule_about_a_ratio_that_makes_no_sense_is_refused(rules: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        space_from_guide(("BASE",), ALPHA, rules, [FACE])


def test_idle_weights_are_frozen_as_near_to_a_as_they_may_be() -> None:
    space = build_space(BLOCKS, BOTH, ranges={"IN00.beta": [0.2, 0.8]}, groups=[["M00.alpha", "OUT00.alpha"]])
    less = space.without_idle({"BASE.alpha", "IN00.beta", "M00.alpha"})  # M00 shares its number with one that counts
    assert less.idle == ("BASE.alpha", "IN00.beta")
    assert dict(less.fixed) == {"BASE.alpha": 0.0, "IN00.beta": 0.2}
    assert [p for p in space.parameters if p.name not in less.idle] == list(less.parameters)
    assert SearchSpace.from_json(json.loads(json.dumps(less.to_json()))) == less
    assert "idle" not in space.to_json()
    assert space.without_idle(()) == space


def test_a_group_is_idle_where_all_of_it_is() -> None:
    space = build_space(BLOCKS, ALPHA, groups=[["IN00", "M00"]]).without_idle({"IN00.alpha", "M00.alpha"})
    assert space.idle == ("IN00.alpha", "M00.alpha")


def test_idle_weights_may_have_any_number() -> None:
    space = build_space(("BASE", "IN00"), ALPHA).without_idle({"BASE.alpha"})
    weights = {"alpha": {"BASE": 0.7, "IN00": 0.3}}
    assert space.values_of(weights) == {"IN00.alpha": 0.3}
    assert space.project(weights, {"alpha": 0.5}) == ({"IN00.alpha": 0.3}, [])
    assert space.assemble({"IN00.alpha": 0.3}) == {"alpha": {"BASE": 0.0, "IN00": 0.3}}


def test_nothing_left_to_search_is_an_error() -> None:
    with pytest.raises(ConfigError, match="the models are equal wherever a weight is searched"):
        build_space(("BASE", "IN00"), ALPHA, frozen={"IN00": 1}).without_idle({"BASE.alpha"})


@pytest.mark.parametrize("idle", [["IN00.alpha"], ["nonsense"], [["BASE.alpha"]], 5, [None]])
def test_idle_weights_that_are_not_frozen_are_refused(idle: Any) -> None:
    data = build_space(("BASE", "IN00"), ALPHA, frozen={"BASE": 0.0}).to_json() | {"idle": idle}
    with pytest.raises((ConfigError, TypeError)):
        SearchSpace.from_json(data)


@pytest.mark.parametrize("value", ["maybe", True, 0, [], {"keep": 1}])
def test_what_is_done_with_idle_weights_is_one_of_two_words(value: object) -> None:
    with pytest.raises(ConfigError, match=r"space\.idle: .* is unknown; give freeze or keep"):
        space_from_guide(BLOCKS, ALPHA, {"idle": value})
    assert space_from_guide(BLOCKS, ALPHA, {"idle": "keep"}) == build_space(BLOCKS, ALPHA)
