from __future__ import annotations

from bayes_merger.paths import quoted


def test_a_name_with_blanks_is_one_word_in_each_shell() -> None:
    assert quoted("plain-1", windows=True) == "plain-1"
    assert quoted("my runs", windows=True) == '"my runs"'
    assert quoted("my runs", windows=False) == "'my runs'"
