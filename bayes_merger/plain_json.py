"""JSON that people send each other: plain data within limits, no key twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bayes_merger.errors import ConfigError, printable

LONGEST_NUMBER = 30
"""Digits of a whole number; what has more is text."""


def parse_json(text: str) -> Any:
    """JSON as plain data.

    Raises:
        ValueError: it is not JSON.
        ConfigError: it is beyond the limits of this module, or gives a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"'{printable(key)}' is given twice; remove one")
            found[key] = value
        return found

    try:
        return with_whole_text(
            json.loads(
                text,
                object_pairs_hook=unique,
                parse_int=lambda digits: int(digits) if len(digits) <= LONGEST_NUMBER else digits,
            )
        )
    except RecursionError:
        raise ConfigError("is nested too deeply") from None


def with_whole_text(data: Any) -> Any:
    """The data with all text in it in whole characters.

    Raises:
        ConfigError: it holds a half of a character, which no file and no picture can keep.
    """
    return _mapped(data, _whole)


def _mapped(data: Any, change: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {_mapped(key, change): _mapped(value, change) for key, value in data.items()}
    if isinstance(data, list):
        return [_mapped(item, change) for item in data]
    return data


def _whole(text: str) -> str:
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    try:  # JSON writes characters beyond the first 65,536 as two halves
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ConfigError(
            f"'{printable(text, longest=60)}' holds half of a character (a surrogate); remove it"
        ) from None
