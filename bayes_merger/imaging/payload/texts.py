"""Several prompts in one text: the parameters of several pictures, or one prompt a line."""

from __future__ import annotations

from bayes_merger.imaging.payload.infotext import split_infotexts


def split_texts(text: str) -> list[str]:
    """The parts of a text: each ends with a picture's parameters; where there are none, its lines that are not empty.

    >>> split_texts("a ring\\n\\n# a comment\\na disc")
    ['a ring', 'a disc']
    """
    lines = (line.strip() for line in text.splitlines())
    return split_infotexts(text) or [line for line in lines if line and not line.startswith("#")]
