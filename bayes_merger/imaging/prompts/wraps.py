"""A text around another one, as the extension dynamic-prompts has it: `%{a photo of ..., sharp$$a ring}`.

https://github.com/adieyal/sd-dynamic-prompts/blob/main/docs/SYNTAX.md#wrap-command
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bayes_merger.errors import ConfigError, printable

_START = re.compile(r"(?<!\\)%\{")
_MARKS = re.compile(r"\\.|\$\$|[{}]", re.DOTALL)
_PLACE = re.compile(r"\.{3,}|[\u1801\u2026\u22ee-\u22f1\ufe19]")
_MOST = 100  # in one text


def with_wraps(text: str, drawn: Callable[[str], str]) -> str:
    """The text with both sides of each wrap drawn, and the second in the place of the first one's dots.

    >>> with_wraps("%{a photo of ..., sharp$$a ring}, red", str)
    'a photo of a ring, sharp, red'

    Raises:
        ConfigError: there is no place for the second.
    """
    place = 0
    for _ in range(_MOST):
        found = _START.search(text, place)
        if found is None:
            break
        bounds = _bounds(text, found.end())
        place = found.end()
        if bounds is not None:
            middle, end = bounds
            around, inside = drawn(text[found.end() : middle]), drawn(text[middle + 2 : end])
            if not _PLACE.search(around):
                shown = printable(around, longest=60)
                raise ConfigError(f"prompt: %{{{shown}$$...}} has no place for what is behind $$; write ... there")
            wrapped = _PLACE.sub(lambda _: inside.strip(), around, count=1)  # noqa: B023  # used at once
            text = text[: found.start()] + wrapped + text[end + 1 :]
            place = found.start() + len(wrapped)
    return text


def _bounds(text: str, start: int) -> tuple[int, int] | None:
    """Where a wrap's two sides part, and where it ends."""
    depth, middle = 0, -1
    for mark in _MARKS.finditer(text, start):
        if mark.group() == "$$" and depth == 0 and middle < 0:
            middle = mark.start()
        elif mark.group() == "}" and depth == 0:
            return (middle, mark.start()) if middle >= 0 else None
        else:
            depth += {"{": 1, "}": -1}.get(mark.group(), 0)
    return None
