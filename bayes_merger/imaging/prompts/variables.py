"""Variables of a prompt, as the extension dynamic-prompts has them: `${colour={red|blue}} a ${colour} ring`.

What `=` gives is put in as it is written, and drawn anew at each place; what `=!` gives is drawn once, and `?=` gives
only what has no value yet. `${colour:red}` is red where nothing is given; what is never given and has no such default
is text, and so is what follows a backslash. The syntax is described at
https://github.com/adieyal/sd-dynamic-prompts/blob/main/docs/SYNTAX.md
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bayes_merger.errors import ConfigError, printable

_FOUND = re.compile(r"(?<!\\)\$\{\s*([\w-]+)\s*(?:(?P<keep>\??)=(?P<once>!?)|(?P<default>:)|\})")
_MOST = 1000  # in one prompt; a variable that contains itself would never end
_LONGEST = 20_000  # characters; one that contains itself twice would fill the memory


class Variables:
    """What has been given in a prompt so far."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def put_into(self, text: str, drawn: Callable[[str], str]) -> str:
        """The text with variables in their places.

        >>> Variables().put_into("${c=red} a ${c} ring on ${d:sand} at ${e}", str)
        'a red ring on sand at ${e}'

        Args:
            text: of a prompt.
            drawn: one of its parts with all variables and choices drawn.

        Raises:
            ConfigError: they refer to each other endlessly.
        """
        place = 0
        for _ in range(_MOST):
            found = _FOUND.search(text, place)
            if found is None:
                return text
            name, opened = found[1], found["default"] or found["keep"] is not None
            end = _end(text, found.end()) if opened else found.end() - 1
            if end is None:
                place = found.end()
            elif found["keep"] is None:
                value = self._given.get(name, text[found.end() : end] if found["default"] else None)
                place = found.end() if value is None else found.start()  # a value may hold others
                text = text if value is None else text[: found.start()] + value + text[end + 1 :]
            else:
                if not (found["keep"] and name in self._given):
                    value = text[found.end() : end]
                    self._given[name] = drawn(value) if found["once"] else value
                place = found.start()
                text = text[:place] + text[end + 1 :].lstrip()
            if len(text) > _LONGEST:
                break
        raise ConfigError(f"prompt: its variables refer to each other endlessly in '{printable(text, longest=80)}'")


def _end(text: str, start: int) -> int | None:
    """Where the brace closes that is open before `start`."""
    depth = 1
    for mark in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if not depth:
            return start + mark.start()
    return None
