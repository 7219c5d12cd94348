"""Styles: words under a name that web UIs put around a prompt, from the `styles.csv` beside them.

As in https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/styles.py
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bayes_merger.documents import read_text
from bayes_merger.errors import ConfigError, nearest, printable


@dataclass(frozen=True)
class Style:
    """What a style adds to the prompt and to the negative prompt, or what is around `{prompt}`."""

    prompt: str
    negative_prompt: str


@lru_cache(maxsize=8)
def read_styles(path: Path) -> Mapping[str, Style]:
    """The styles in a `styles.csv`, by name.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True))
    except (ConfigError, csv.Error) as error:
        raise ConfigError(f"styles: {path}: {error}") from None
    if rows and not {"name"} <= set(rows[0]):
        raise ConfigError(f"styles: {path}: its first line is not  name,prompt,negative_prompt")
    return {
        row["name"]: Style(row.get("prompt") or row.get("text") or "", row.get("negative_prompt") or "")
        for row in rows
        if row["name"]
    }


def styled(names: Sequence[str], path: Path | None, prompt: str, negative: str) -> tuple[str, str]:
    """A prompt and a negative prompt in some styles, one after another.

    Raises:
        ConfigError: there is no such style, or no file of them.
    """
    if path is None:
        raise ConfigError(f"styles: '{printable(names[0])}' needs the file that has it; set  styles=styles.csv")
    known = read_styles(path)
    for name in names:
        if name not in known:
            raise ConfigError(f"styles: no '{printable(name)}' in {path}; {nearest(name, known)}")
        prompt = _around(known[name].prompt, prompt)
        negative = _around(known[name].negative_prompt, negative)
    return prompt, negative


def _around(style: str, prompt: str) -> str:
    if "{prompt}" in style:
        return style.replace("{prompt}", prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part)
