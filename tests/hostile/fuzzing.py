"""Property-based fuzzing: whatever a file holds, reading it gives what it says or one clear line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bayes_merger.errors import UserError

LENGTHS = [40, pytest.param(4000, marks=pytest.mark.slow)]
"""How many examples: a few in every run of the tests, always the same ones; many, always others, in the slow ones."""

LONGEST = 1600  # characters that an error may have


def fuzzing(examples: int) -> settings:
    """The settings of a run with so many examples."""
    return settings(
        max_examples=examples,
        derandomize=examples < 1000,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def one_clear_line() -> Iterator[None]:
    """Errors that are meant for users pass, if they are short; all others fail the test."""
    text = "read without complaint"
    try:
        yield
    except UserError as error:
        text = str(error)
    assert 10 < len(text) < LONGEST, f"an error of {len(text)} characters: {text[:200]}"


def json_values(leaves: int = 8) -> st.SearchStrategy[Any]:
    """Anything that JSON can hold."""
    single = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(min_value=10**30, max_value=10**40)
        | st.floats()
        | st.text(max_size=12)
        | st.sampled_from(["", "nan", "1e400", "../../x", "\x1b[31m", "\u202eabc", "A" * 5000])
    )
    return st.recursive(
        single,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=leaves,
    )


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes, damaged in one to four places: changed, left out, doubled, cut off."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 8, 64]))
        how = draw(st.sampled_from(["change", "change", "leave out", "double", "cut off", "insert"]))
        if how == "change":
            data = data[:at] + draw(st.binary(min_size=length, max_size=length)) + data[at + length :]
        elif how == "leave out":
            data = data[:at] + data[at + length :]
        elif how == "double":
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif how == "cut off":
            data = data[:at]
        else:
            data = data[:at] + draw(st.binary(max_size=16)) + data[at:]
    return data


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """JSON data with one to three of its parts replaced, left out or added, at any depth."""
    for _ in range(draw(st.integers(1, 3))):
        value = draw(_altered_once(value))
    return value


@st.composite
def _altered_once(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.sampled_from(["within", "within", "within", "leave out", "rename", "add"]))
        if how == "within":
            return value | {key: draw(_altered_once(value[key]))}
        rest = {name: part for name, part in value.items() if name != key or how == "add"}
        if how == "leave out":
            return rest
        return rest | {draw(st.text(max_size=10)): draw(json_values(3)) if how == "add" else value[key]}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(_altered_once(value[at])), *value[at + 1 :]]
    return draw(json_values(4))
