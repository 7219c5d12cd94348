"""Several prompts in one text: one a line, or a paragraph with what shall not be in the picture.

A line may hold fields, as A1111's script "Prompts from file or textbox" reads them: `--prompt "a ring" --steps 20`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from bayes_merger.errors import ConfigError, printable

_UNWANTED = re.compile(r"^Negative prompt:", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n\s*\n(?!\s*Negative prompt:)")
_OPTION = re.compile(r"--\w")
_ABOUT_FILES = ("outpath_samples", "outpath_grids", "prompt_for_display")


def prompts_in(text: str) -> list[dict[str, Any]]:
    """The fields of the payloads in a text without parameters.

    >>> prompts_in("a ring\\n\\n# a comment\\na disc")
    [{'prompt': 'a ring'}, {'prompt': 'a disc'}]
    >>> prompts_in("a ring\\nNegative prompt: blurry")
    [{'prompt': 'a ring', 'negative_prompt': 'blurry'}]

    Raises:
        ConfigError: a line of fields that cannot be read.
    """
    if _UNWANTED.search(text):
        return [_with_unwanted(paragraph) for paragraph in _PARAGRAPH.split(text) if paragraph.strip()]
    lines = (line.strip() for line in text.splitlines())
    return [_of_line(line) for line in lines if line and not line.startswith("#")]


def _with_unwanted(paragraph: str) -> dict[str, Any]:
    wanted, *unwanted = _UNWANTED.split(paragraph)
    return {"prompt": wanted.strip(), **({"negative_prompt": unwanted[0].strip()} if unwanted else {})}


def _of_line(line: str) -> dict[str, Any]:
    if not _OPTION.match(line):
        return {"prompt": line}
    try:
        fields = dict(_fields(shlex.split(line)))
    except ValueError as error:
        raise ConfigError(f"'{printable(line, longest=60)}': {error}") from None
    return {name: value for name, value in fields.items() if name not in _ABOUT_FILES}


def _fields(words: list[str]) -> Iterator[tuple[str, str]]:
    """The options of a line; what follows words without dashes belongs to them."""
    for start, word in enumerate(words):
        if _OPTION.match(word):
            end = next((at for at in range(start + 1, len(words)) if _OPTION.match(words[at])), len(words))
            yield word[2:], " ".join(words[start + 1 : end])
