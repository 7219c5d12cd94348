"""What is typed for an axis, and what its values change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.run.xy.axes import Axis, drawn_payloads, merge_words, read_axes


def axis(text: str) -> Axis:
    return read_axes([("x", text)])[0]


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("OUT05.alpha=0,0.25,0.5,1", "OUT05.alpha", ["0", "0.25", "0.5", "1"]),
        ("alpha=0-1 [5]", "alpha", ["0", "0.25", "0.5", "0.75", "1"]),
        ("seed=1-6 (+2)", "seed", ["1", "3", "5"]),
        ("alpha=GRAD_V|0,0.5,1", "alpha", ["GRAD_V", "0,0.5,1"]),
        ("elements=|OUT05::1|OUT05:attn2:1, IN00::0.5", "elements", ["", "OUT05::1", "OUT05:attn2:1, IN00::0.5"]),
        ("elemental=\n\nOUT05::1\nIN00::1\n\nOUT05:attn2:1\n", "elements", ["", "OUT05::1\nIN00::1", "OUT05:attn2:1"]),
        ("pinpoint element=IN07:,IN07:layers\nIN07:NOT attn1", "pinpoint_elements", ["IN07:", "IN07:layers", "IN07:NOT attn1"]),
        ("pinpoint blocks=IN01,OUT10 OUT11", "pinpoint_blocks", ["IN01", "OUT10 OUT11"]),
        ("cfg=3,7", "cfg_scale", ["3", "7"]),
        ("Sampler=Euler a,DDIM", "sampler_name", ["Euler a", "DDIM"]),
        ('prompt="a cat, big",1-5 [2]', "prompt", ["a cat, big", "1-5 [2]"]),
        ("Prompt S/R=cat,dog", "replace", ["cat", "dog"]),
        ("calcmode=ties,slerp", "method", ["ties", "slerp"]),
    ],
)  # fmt: skip
def test_an_axis_is_read_as_in_web_uis(text: str, kind: str, values: list[str]) -> None:
    assert (axis(text).kind, list(axis(text).values)) == (kind, values)


def test_a_file_has_the_values_of_a_long_axis(tmp_path: Path) -> None:
    (tmp_path / "sets.txt").write_text("\n\nOUT05::1\n\nOUT05:layers:1\n")
    assert axis(f"elements=@{tmp_path / 'sets.txt'}").values == ("", "OUT05::1", "OUT05:layers:1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no x"),
        ([("y", "alpha=0,1")], "there is no x"),
        ([("x", "alpha")], "'alpha' is no axis"),
        ([("x", "alpha=")], "alpha has no values"),
        ([("x", "alpha=0,,1")], "alpha has an empty value"),
        ([("x", "alpha=0-1 (-1)")], "'0-1 .-1.' is no range"),
        ([("x", "alpha=0-1 [99999]")], "is no range"),
        ([("x", "elements=@/nowhere.txt")], "x: /nowhere.txt: "),
        ([("x", "alpha=0,1"), ("x", "seed=1,2")], "x: is given twice"),
        ([("x", "cfg=3"), ("y", "cfg_scale=4")], "x and y are both cfg_scale; leave one out"),
        ([("x", "OUT05.alpha=0"), ("y", "IN00.alpha+out05.alpha=1")], "x and y are both"),
        ([("x", "pinpoint_elements=OUT05:attn2:1")], "without a ratio"),
        ([("x", "pinpoint_elements=OUT05:"), ("y", "pinpoint_blocks=OUT05")], "only one axis can say"),
    ],
)
def test_a_mistake_is_said_in_one_line(words: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_axes(words)


def words_of(given: dict[str, Any], *chosen: tuple[str, str]) -> dict[str, Any]:
    return merge_words(given, [(axis(f"{kind}={value}"), value) for kind, value in chosen])


def test_what_is_merged_of_a_part_leaves_the_rest_model_a_unless_alpha_is_given() -> None:
    assert words_of({}, ("OUT05.alpha", "0.3")) == {"OUT05.alpha": "0.3", "alpha": "0"}
    assert words_of({"alpha": "0.5"}, ("OUT05.alpha", "0.3")) == {"OUT05.alpha": "0.3", "alpha": "0.5"}
    assert words_of({}, ("OUT05", "0.3"), ("alpha", "0.1")) == {"OUT05": "0.3", "alpha": "0.1"}
    assert words_of({}, ("method", "slerp")) == {"method": "slerp"}
    assert words_of({}, ("OUT04.alpha+OUT05.alpha", "1"))["OUT04.alpha"] == "1"
    assert words_of({}, ("elements", "OUT05::1")) == {"alpha": "0", "elements": ["OUT05::1"]}
    assert words_of({"elements": ["IN00::1"]}, ("add_elements", "M00::1"))["elements"] == ["IN00::1", "M00::1"]
    assert merge_words({"elements": ["IN00::1"]}, [(axis("elements=|M00::1"), "")])["elements"] == []


def test_what_is_alone_takes_the_other_axis_for_its_ratio() -> None:
    alone = ("pinpoint_elements", "OUT05:attn2")
    assert words_of({}, alone, ("alpha", "0.3")) == {
        "alpha": "0", "pinpoint": "0.3", "elements": ["OUT05:attn2:pinpoint"],
    }  # fmt: skip
    assert words_of({"alpha": "0.5"}, ("pinpoint_blocks", "OUT05"), ("alpha", "1")) == {
        "alpha": "0.5", "pinpoint": "1", "elements": ["OUT05::pinpoint"],
    }  # fmt: skip
    found = words_of({"method": "sum_twice"}, alone, ("beta", "0.2"))
    assert found["elements"] == ["OUT05:attn2:;pinpoint"]
    assert "beta" not in found
    with pytest.raises(ConfigError, match="varied by the values of another axis"):
        words_of({}, alone, ("seed", "1"))


PAYLOADS: dict[str, dict[str, Any]] = {
    "cat": {"prompt": "a cat", "cfg": 4},
    "hat": {"prompt": "a cat in a hat", "negative_prompt": "cat"},
}


def drawn(*chosen: tuple[str, int]) -> dict[str, Any]:
    return drawn_payloads(PAYLOADS, [(one, one.values[place]) for one, place in ((axis(t), p) for t, p in chosen)])


def test_fields_payloads_and_words_change_what_is_drawn() -> None:
    assert drawn(("cfg=7,8", 1)) == {name: {**fields, "cfg_scale": 8} for name, fields in (
        ("cat", {"prompt": "a cat"}), ("hat", PAYLOADS["hat"]))}  # fmt: skip
    assert list(drawn(("payload=hat,cat", 0))) == ["hat"]
    assert drawn(("replace=cat,dog", 1))["hat"] == {"prompt": "a dog in a hat", "negative_prompt": "dog"}
    assert drawn(("replace=red,blue", 1), ("prompt=a red ring", 0))["cat"]["prompt"] == "a blue ring"
    for text, said in (("payload=hut", "no payload 'hut'"), ("replace=red,blue", "no prompt has 'red'")):
        with pytest.raises(ConfigError, match=said):
            drawn((text, 0))
