from __future__ import annotations

import doctest

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.prompts import prompt
from bayes_merger.imaging.prompts.prompt import check_prompt, parse_prompt, plain_prompt


def segments(text: str) -> list[tuple[str, float]]:
    return [(segment.text, round(segment.weight, 6)) for segment in parse_prompt(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_examples_from_the_web_ui(text: str, expected: list[tuple[str, float]]) -> None:
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("()", []),
        ("12:30) noon", [("12:30) noon", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a : 1.5 )", [("a ", 1.5)]),
        ("[a]", [("a", 0.909091)]),
        (r"back\\slash \x \o/", [("back\\slash x o/", 1.0)]),
        ("a]", [("a]", 1.0)]),
        ("ratio 3:4", [("ratio 3:4", 1.0)]),
    ],
)
def test_odd_brackets(text: str, expected: list[tuple[str, float]]) -> None:
    assert segments(text) == expected


def test_break_begins_a_new_part_also_inside_brackets() -> None:
    assert [(s.text, s.weight, s.part) for s in parse_prompt("a BREAK (b,BREAK c:1.5) BREAKING")] == [
        ("a", 1.0, 0),
        ("b,", 1.5, 1),
        ("c", 1.5, 2),
        (" BREAKING", 1.0, 2),
    ]


def test_plain_prompt_is_what_a_scorer_reads() -> None:
    assert plain_prompt(r"a (red:1.3) \(big\) [old]  house BREAK night") == "a red (big) old house night"
    assert plain_prompt("a [red:blue:0.5] [cat|dog] [fog::3] <lora:fur:1>") == "a blue cat dog"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a cat AND a dog", "AND"),
        ("a cat <hypernet:fur:0.8>", "<hypernet:fur:0.8> calls a network of a kind that is not supported"),
        ("<lora:fur:much>", "'much' is no strength"),
        ("<lora:fur:1:lbw=MIDD>", "'lbw=' is not supported"),
        ("<lora:fur:1> <lora:fur:0.5>", "<lora:fur:...> is there twice"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_prompt(text)


@pytest.mark.parametrize(
    "text",
    ["a [cat]", r"\[a:b:0.5\]", "BAND AND_ <3 12:30]", "a | b", "a [cat:dog:0.5]", "a [cat|dog]", "a <lora:fur:0.8>"],
)
def test_what_can_be_drawn_passes(text: str) -> None:
    check_prompt(text)


def test_a_negative_prompt_names_no_networks_and_knows_no_and() -> None:
    check_prompt("a cat AND a dog", negative=True)
    with pytest.raises(ConfigError, match=r"negative_prompt: <lora:fur:\.\.\.> does nothing there"):
        check_prompt("blurry <lora:fur:1>", negative=True)


def test_docstring_examples() -> None:
    assert doctest.testmod(prompt).failed == 0


def test_a_thousand_brackets_are_refused_at_once() -> None:
    for text in ("(a" * 5000, "[a" * 5000, "(a" * 5000 + ")" * 5000):
        with pytest.raises(ConfigError, match="more than 100 brackets inside each other"):
            check_prompt(text)
    check_prompt("(a)" * 1000 + "(((a)))" + r"\(" * 500 + ")" * 200)


def test_what_is_refused_is_shown_in_a_few_words() -> None:
    for text in (f"<net:{'x' * 5000}:1>", f"<lora:a:{'x' * 5000}>", "<lora:\u202egnp:\u202e>"):
        with pytest.raises(ConfigError) as caught:
            check_prompt(text)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()
