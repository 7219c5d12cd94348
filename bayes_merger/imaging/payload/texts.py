"""Several prompts in one text: the parameters of several pictures, or one prompt a line."""

from __future__ import annotations

import re

_END_OF_PARAMETERS = re.compile(r"^Steps: \d+, \w[^\n]*$", re.MULTILINE)


def split_texts(text: str) -> list[str]:
    """The parts of a text: each ends with a picture's parameters; where there are none, its lines that are not empty.

    >>> split_texts("a ring\\nSteps: 20, Seed: 1\\n\\na disc\\nSteps: 9, Seed: 2\\n")
    ['a ring\\nSteps: 20, Seed: 1', 'a disc\\nSteps: 9, Seed: 2']
    >>> split_texts("a ring\\n\\n# a comment\\na disc")
    ['a ring', 'a disc']
    """
    ends = [found.end() for found in _END_OF_PARAMETERS.finditer(text)]
    if ends:
        return [text[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
