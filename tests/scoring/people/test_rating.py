from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_merger.scoring import Ledger
from bayes_merger.scoring.people.rating import parsed

GOOD = '{"id":"a","kind":"score","candidate":"c1","payload":"p","index":0,"score":6'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "7",
        "null",
        "[" * 100_000,
        GOOD + ',"kind":"praise"}',
        GOOD + ',"score":11}',
        GOOD + ',"score":-1}',
        GOOD + ',"score":NaN}',
        GOOD + ',"score":"6"}',
        GOOD + ',"score":true}',
        GOOD + ',"score":1e999}',
        GOOD + ',"index":"0"}',
        GOOD + ',"candidate":["c1"]}',
        GOOD + ',"undoes":{"a":1}}',
        GOOD + ',"ms":0.5}',
        GOOD + ',"trial":[3]}',
        '{"id":"a","kind":"score","candidate":"c1","payload":"p","index":0}',
        '{"kind":"confirm","candidate":"c1","trial":3}',
    ],
)
def test_what_is_no_rating_is_skipped(line: str, tmp_path: Path) -> None:
    assert parsed(line.encode()) is None
    path = tmp_path / "ratings.jsonl"
    path.write_text(f"{line}\n{GOOD}}}\n")
    assert Ledger(path).rating("c1", "p", 0) == 6


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_rating_or_nothing(data: bytes) -> None:
    assert parsed(data) is None or parsed(data) == parsed(data)


def test_a_line_is_read_as_it_was_written() -> None:
    rating = parsed(b'{"id":"a","kind":"prefer","candidate":"c1","payload":"p","index":0,"score":0.5,"other":"c2"}')
    assert rating is not None
    assert parsed(rating.line()) == rating
    assert (rating.kind, rating.other, rating.score) == ("prefer", "c2", 0.5)
