"""`__colour__` in a prompt stands for one line of `colour.txt`, drawn anew for every picture, once per study."""

from __future__ import annotations

import os
import random
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath

from bayes_merger.documents import files_below, read_text
from bayes_merger.errors import ConfigError, nearest, printable

_WILDCARD = re.compile(r"__([^\W_][\w /.-]*?)__")
_DEEPEST = 20  # a wildcard that contains itself would never end
_LONGEST = 20_000  # characters; one that contains itself twice would fill the memory
_LARGEST = 32 << 20  # bytes of a word list


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
            expanded = _WILDCARD.sub(self._one_of(draw), text)
            if expanded == text:
                return text
            text = expanded
        raise ConfigError(f"wildcards: they refer to each other endlessly in '{printable(text, longest=80)}'")

    def _one_of(self, draw: random.Random) -> Callable[[re.Match[str]], str]:
        """Draws a line for each wildcard of a text."""
        room = _LONGEST

        def one_of(found: re.Match[str]) -> str:
            nonlocal room
            line = draw.choice(self._lines(found[1]))
            room -= len(line)
            if room < 0:
                raise ConfigError(f"wildcards: more than {_LONGEST} characters come of one prompt")
            return line

        return one_of

    def _read(self, name: str) -> list[str]:
        if self._folder is None:
            raise ConfigError(f"wildcard __{name}__: no folder of word lists is given; set  wildcards=FOLDER")
        file = self._file(self._folder, name)
        if file is None:
            known = [path.relative_to(self._folder).with_suffix("").as_posix() for path in _lists(self._folder)]
            raise ConfigError(f"wildcard __{name}__: no {name}.txt in {self._folder}; {nearest(name, known)}")
        try:
            text = read_text(file, largest=_LARGEST)
        except ConfigError as error:
            raise ConfigError(f"wildcard __{name}__: {file}: {error}") from None
        lines = [line.strip() for line in text.splitlines()]
        options = [line for line in lines if line and not line.startswith("#")]
        if not options:
            raise ConfigError(f"wildcard __{name}__: {file} has no lines")
        return options

    def _file(self, folder: Path, name: str) -> Path | None:
        """The list of that name; macOS writes letters with marks as two characters, keyboards as one."""
        if ".." in PurePosixPath(name).parts:
            return None
        forms = dict.fromkeys((name, *(unicodedata.normalize(how, name) for how in ("NFC", "NFD"))))
        files = (folder / f"{form}.txt" for form in forms)
        # Path's own functions raise where a folder may not be entered
        return next((file for file in files if os.path.exists(file)), None)  # noqa: PTH110


def _lists(folder: Path) -> list[Path]:
    return list(files_below(folder, (".txt",)))
