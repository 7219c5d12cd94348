"""`__colour__` in a prompt stands for one line of `colour.txt`, drawn anew for every picture, once per study."""

from __future__ import annotations

import random
import re
from functools import lru_cache
from pathlib import Path

from bayes_merger.errors import ConfigError, nearest

_WILDCARD = re.compile(r"__([A-Za-z0-9][\w /.-]*?)__")
_DEEPEST = 20  # a wildcard that contains itself would never end


class Wildcards:
    """The word lists in a folder (sub-folders as `__animals/birds__`)."""

    def __init__(self, folder: Path | None) -> None:
        """Remember the folder; files are read when a prompt asks for them."""
        self._folder = folder
        self._lines = lru_cache(maxsize=None)(self._read)

    def expand(self, text: str, draw: random.Random) -> str:
        """The text with every wildcard replaced; options may contain wildcards themselves.

        Raises:
            ConfigError: no folder was given, a file is missing or empty, or wildcards refer to each other endlessly.
        """
        for _ in range(_DEEPEST):
            expanded = _WILDCARD.sub(lambda found: draw.choice(self._lines(found[1])), text)
            if expanded == text:
                return text
            text = expanded
        raise ConfigError(f"wildcards: they refer to each other endlessly in {text[:80]!r}")

    def _read(self, name: str) -> list[str]:
        if self._folder is None:
            raise ConfigError(f"wildcard __{name}__: no folder of word lists is given; set  wildcards=FOLDER")
        file = self._folder / f"{name}.txt"
        if ".." in Path(name).parts or not file.is_file():
            known = [path.relative_to(self._folder).with_suffix("").as_posix() for path in self._folder.rglob("*.txt")]
            raise ConfigError(f"wildcard __{name}__: no {name}.txt in {self._folder}; {nearest(name, known)}")
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        options = [line for line in lines if line and not line.startswith("#")]
        if not options:
            raise ConfigError(f"wildcard __{name}__: {file} has no lines")
        return options
