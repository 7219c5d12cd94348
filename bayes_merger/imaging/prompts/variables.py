"""Variables of a prompt, as the extension dynamic-prompts has them: `${colour={red|blue}} a ${colour} ring`.

What `=` gives is put in as it is written, and drawn anew at each place; what `=!` gives is drawn once. What is never
given is text, and so is what follows a backslash. The syntax is described at
https://github.com/adieyal/sd-dynamic-prompts/blob/main/docs/SYNTAX.md
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bayes_merger.errors import ConfigError, printable

_GIVEN = re.compile(r"(?<!\\)\$\{\s*(\w+)\s*=(!?)")
_USED = re.compile(r"(?<!\\)\$\{\s*(\w+)\s*(?::[^{}]*)?\}")
_MOST = 100
_DEEPEST = 20  # a variable that contains itself would never end
_LONGEST = 20_000  # characters; one that contains itself twice would fill the memory


def with_variables(text: str, drawn: Callable[[str], str]) -> str:
    """The text with its variables in their places.

    >>> with_variables("${c=red} a ${c} ring on ${d}", str)
    'a red ring on ${d}'

    Args:
        text: of a prompt.
        drawn: one of its parts with all choices drawn.

    Raises:
        ConfigError: they refer to each other endlessly.
    """
    given: dict[str, str] = {}
    for _ in range(_MOST):
        found = _GIVEN.search(text)
        end = _end(text, found.end()) if found else None
        if found is None or end is None:
            break
        value = text[found.end() : end]
        given[found[1]] = drawn(_put_in(value, given)) if found[2] else value
        text = text[: found.start()] + text[end + 1 :].lstrip()
    return _put_in(text, given) if given else text


def _put_in(text: str, given: dict[str, str]) -> str:
    for _ in range(_DEEPEST):
        replaced = _USED.sub(lambda found: given.get(found[1], found[0]), text)
        if replaced == text:
            return text
        if len(replaced) > _LONGEST:
            break
        text = replaced
    raise ConfigError(f"prompt: its variables refer to each other endlessly in '{printable(text, longest=80)}'")


def _end(text: str, start: int) -> int | None:
    """Where the brace closes that is open before `start`."""
    depth = 1
    for mark in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if not depth:
            return start + mark.start()
    return None
