"""Comments in prompts: what is between `#` and the end of its line is not drawn, as in A1111 since 1.8 and in Forge.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/processing_scripts/comments.py
"""

from __future__ import annotations

import re

_LINE = re.compile(r"(?:^|\n)#[^\n]*(?:\n|$)")
_REST = re.compile(r"#[^\n]*(?:\n|$)")


def without_comments(text: str) -> str:
    r"""A prompt without its comments.

    >>> without_comments("a ring # my first\n# whole\nblue")
    'a ring \n\nblue'
    """
    return _REST.sub("\n", _LINE.sub("\n", text)).strip() if "#" in text else text
