"""Prompts that change while drawing: the examples that A1111 documents, and brackets of every kind."""

from __future__ import annotations

import doctest

import pytest

from bayes_merger.imaging.prompts import editing
from bayes_merger.imaging.prompts.editing import Span, by_call, changes, said_at_last, spans


def schedule(text: str, steps: int = 10, before: int | None = None) -> list[tuple[int, str]]:
    return [(span.last, span.text) for span in spans(text, steps, before)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(10, "a [{b|d{:.5] c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(step, ("a", "(b:1.1)")[step % 2 - 1]) for step in range(1, 11)]),
        ("[fe|]male", [(step, ("female", "male")[step % 2 - 1]) for step in range(1, 11)]),
        ("[fe|||]male", [(step, "female" if step % 4 == 1 else "male") for step in range(1, 11)]),
    ],
)
def test_the_examples_of_the_web_ui(text: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(text) == expected


def test_the_long_example_of_the_web_ui() -> None:
    text = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert schedule(text, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b:3] c", [(10, "a b c")]),
        ("a [b:13] c", [(3, "a  c"), (10, "a b c")]),
    ],
)
def test_in_a_second_pass_times_count_on(text: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(text, 10, before=10) == expected


@pytest.mark.parametrize(
    "text",
    ["a [b:c:d:3]", "[a|b:c:3]", "a | [b:3]", "[b:3]\\", "[b:three]", "a (b:1.2) [c]", r"\[a|b\]", "", "[", "]", "(|)"],
)
def test_what_is_no_edit_is_text(text: str) -> None:
    assert schedule(text) == [(10, text)]
    assert not changes(text)


def test_a_time_at_which_nothing_changes_is_counted_too() -> None:
    assert schedule("[x:[a:b:3]:6]") == [(3, "x"), (6, "x"), (10, "b")]
    assert schedule("[a:a:5]") == [(5, "a"), (10, "a")]
    assert schedule("[[a|a]:c:2]", 3) == [(1, "a"), (2, "a"), (3, "c")]


def test_edits_within_weights_and_within_alternations() -> None:
    assert schedule("([a:b:2]:1.3)") == [(2, "(a:1.3)"), (10, "(b:1.3)")]
    assert schedule("[x[a:b:1]|y]", 4) == [(1, "xa"), (2, "y"), (3, "xb"), (4, "y")]
    assert schedule("[[a|b]:c:3]", 4) == [(1, "a"), (2, "b"), (3, "a"), (4, "c")]


@pytest.mark.parametrize(
    ("when", "last"), [("0", 10), ("-1", 10), ("99", 10), ("1e0", 1), ("+2", 2), ("0.99", 9), ("1.0", 10)]
)
def test_times_at_the_edges(when: str, last: int) -> None:
    assert schedule(f"[a:b:{when}]")[0][0] == last


def test_calls_are_counted_from_0_so_that_the_first_text_stays_one_longer() -> None:
    found = spans("[a:b:2]", 4)
    assert found == [Span(2, "a"), Span(4, "b")]
    assert by_call(found, 4) == ["a", "a", "a", "b"]
    assert by_call(spans("[a|b]", 4), 6) == ["a", "a", "b", "a", "b", "b"]


def test_hostile_brackets_end_soon() -> None:
    for text in ("[" * 99 + "a:b:0.5]", "[a:" * 90 + "b:1]" * 90, "[" * 90 + "|]" * 90, "[a|" * 99, ":" * 9000):
        assert schedule(text, 3)


def test_times_beyond_all_numbers() -> None:
    assert spans("[a:b:-1e400]", 4) == spans("[a:b:-1.0e400]", 4) == [Span(4, "b")]
    assert spans("[a:b:1e400]", 4, 4) == spans("[a:b:1.0e400]", 4) == [Span(4, "a")]


def test_what_is_said_at_last() -> None:
    assert said_at_last("a [red:blue:0.5] (ball:1.2) [on|under] sand[, fog::4]") == "a blue (ball:1.2) on under sand"


def test_docstring_examples() -> None:
    assert doctest.testmod(editing).failed == 0
