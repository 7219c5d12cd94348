"""Word lists and choices: `__colour__` stands for a line of `colour.txt`, `{red|blue}` for one of its options.

They are drawn anew for every picture, once per study. Both may stand inside each other, and in the lists, whose
variables may be given with their name: `__season(when=winter)__`.
"""

from __future__ import annotations

import math
import os
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from bayes_merger.documents import files_below, read_document, read_text
from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.prompts.braces import Choice, Option, choose, first_choice, option
from bayes_merger.imaging.prompts.comments import without_comments
from bayes_merger.imaging.prompts.variables import Variables
from bayes_merger.imaging.prompts.wraps import with_wraps

_VALUES = r"\s*[\w-]+\s*=[^,()=]*"
_NAME = rf"__[~@!]?(/?(?:[^\W_]|\*)[\w /\\.*-]*?)(?:\(({_VALUES}(?:,{_VALUES})*)\))?__"
# the extension's marks of how to draw mean nothing once per study
_WILDCARD = re.compile(_NAME)
_ALONE = re.compile(rf"\s*{_NAME}\s*")
_DEEPEST = 20  # a wildcard that contains itself would never end
_LONGEST = 20_000  # characters; one that contains itself twice would fill the memory
_LARGEST = 32 << 20  # bytes of a word list
_TABLES = (".yaml", ".yml", ".json")
_MOST_CHOICES = 500  # in one text, one after another


class Wildcards:
    """The word lists in a folder.

    A list is a text file with a line for each option (sub-folders as `__animals/birds__`), or a list in a YAML or JSON
    file, called by the keys above it, with or without the file's own name or its folder's. `*` stands for any part of a
    name: the lists that fit are one. A name that no list has is looked for in all folders. A line may have a weight, as
    in `0.5::red`, or as a table of `text` and `weight`.
    """

    def __init__(self, folder: Path | None) -> None:
        """Remember the folder; files are read when a prompt asks for them."""
        self._folder = folder
        self._options = lru_cache(maxsize=None)(self._read)

    def expand(self, text: str, draw: random.Random) -> str:
        """The text with every wildcard and choice replaced; options may contain some themselves.

        Raises:
            ConfigError: no folder was given, a file is missing or empty, or wildcards refer to each other endlessly.
        """
        return self._drawn(text, draw, Variables())

    def _drawn(self, text: str, draw: random.Random, variables: Variables, depth: int = 0) -> str:
        if depth > _DEEPEST:
            raise ConfigError(f"prompt: has more than {_DEEPEST} variables or texts around others inside each other")

        def part(inner: str) -> str:
            return self._drawn(inner, draw, variables, depth + 1)

        for _ in range(_DEEPEST):
            wrapped = with_wraps(variables.put_into(text, part), part)
            expanded = _WILDCARD.sub(self._one_of(draw), self._chosen(wrapped, draw))
            if expanded == text:
                return text
            text = expanded
        raise ConfigError(f"wildcards: they refer to each other endlessly in '{printable(text, longest=80)}'")

    def _chosen(self, text: str, draw: random.Random) -> str:
        """The text with every choice in braces drawn; choices among the options come next."""
        for _ in range(_MOST_CHOICES):
            if (found := first_choice(text)) is None:
                return text
            before, choice, behind = found
            text = before + self._with_lists(choice, draw).drawn(draw) + behind
            if len(text) > _LONGEST:
                raise ConfigError(f"wildcards: more than {_LONGEST} characters come of one prompt")
        raise ConfigError(f"prompt: has more than {_MOST_CHOICES} choices in braces; write fewer")

    def _with_lists(self, choice: Choice, draw: random.Random) -> Choice:
        """A choice of several among the lines of a list: `{2$$__colours__}`, or `{2$$__{warm|cold}__}`."""
        name = _list_alone(choice.options[0].text, draw) if len(choice.options) == 1 and choice.high != 1 else None
        if name is None:
            return choice
        options = tuple({one.text: one for one in self._options(name)}.values())  # none is drawn twice
        return replace(choice, options=options, high=max(choice.high, choice.low))

    def _one_of(self, draw: random.Random) -> Callable[[re.Match[str]], str]:
        """Draws a line for each wildcard of a text."""
        room = _LONGEST

        def one_of(found: re.Match[str]) -> str:
            nonlocal room
            pairs = [map(str.strip, one.split("=")) for one in (found[2] or "").split(",") if one]
            given = "".join(f"${{{name}={value}}}" for name, value in pairs)
            line = given + choose(self._options(found[1]), draw)
            room -= len(line)
            if room < 0:
                raise ConfigError(f"wildcards: more than {_LONGEST} characters come of one prompt")
            return line

        return one_of

    def _read(self, name: str) -> tuple[Option, ...]:
        """The options of a list, or of all lists whose names fit."""
        name = re.sub(r"[\\/]+", "/", name).strip("/")  # as Windows has it
        if self._folder is None:
            raise ConfigError(f"wildcard __{name}__: no folder of word lists is given; set  wildcards=FOLDER")
        lines = self._together(name) if "*" in name else self._lines(name)
        if (
            lines is None and (lines := self._together(f"*/{name}")) is None
        ):  # as the extension looks again, any folder's
            way_out = nearest(name, self._names)
            raise ConfigError(f"wildcard __{name}__: no {name}.txt in {self._folder}; {way_out}")
        words = [line for line in map(without_comments, lines) if line]
        if not words:
            raise ConfigError(f"wildcard __{name}__: {self._file(name) or self._folder} has no lines")
        return tuple(map(option, words))

    def _together(self, pattern: str) -> list[str] | None:
        """The lines of all lists whose names fit; None where none does."""
        fitting = [name for name in self._names if fnmatchcase(_plain(name), _plain(pattern))]
        lists = (self._lines(name) or [] for name in fitting)
        once = {id(lines): lines for lines in lists}  # one in a table has several names
        return [line for lines in once.values() for line in lines] if fitting else None

    def _lines(self, name: str) -> list[str] | None:
        """The lines of the list of that name; None where there is none."""
        file = self._file(name)
        if file is None:
            return self._tables.get(_plain(name))
        try:
            text = read_text(file, largest=_LARGEST)
        except ConfigError as error:
            raise ConfigError(f"wildcard __{name}__: {file}: {error}") from None
        return [line.strip() for line in text.splitlines()]

    @cached_property
    def _names(self) -> list[str]:
        texts = (_name(self._folder, path) for path in files_below(self._folder, (".txt",))) if self._folder else ()
        return sorted({*texts, *self._tables})

    @cached_property
    def _tables(self) -> Mapping[str, list[str]]:
        """The lists in YAML and JSON files, by their names."""
        found: dict[str, list[str]] = {}
        for path in files_below(self._folder, _TABLES) if self._folder else ():
            try:
                lists = dict(_lists(read_document(path, words=True, largest=_LARGEST)))
            except ConfigError as error:
                raise ConfigError(f"wildcards: {path}: {error}") from None
            own = _name(self._folder, path)
            beside = own.rpartition("/")[0]
            for keys, lines in lists.items():
                places = ((), (beside,), (own,)) if keys else ((own,),)
                for name in dict.fromkeys("/".join(above + keys) for above in places):
                    if name := name.strip("/"):
                        found.setdefault(_plain(name), lines)
        return found

    def _file(self, name: str) -> Path | None:
        """The text file of that name; macOS writes letters with marks as two characters, keyboards as one."""
        if self._folder is None or ".." in PurePosixPath(name).parts:
            return None
        forms = dict.fromkeys((name, *(unicodedata.normalize(how, name) for how in ("NFC", "NFD"))))
        files = (self._folder / f"{form}.txt" for form in forms)
        # Path's own functions raise where a folder may not be entered
        return next((file for file in files if os.path.exists(file)), None)  # noqa: PTH110


def _list_alone(text: str, draw: random.Random) -> str | None:
    """The name of the list that a text is, in which there may be choices; None of another text."""
    for _ in range(_DEEPEST):
        if alone := _ALONE.fullmatch(text):
            return alone[1]
        within = text.strip().startswith("__") and text.rstrip().endswith("__")
        if not within or (found := first_choice(text)) is None:
            break
        text = found[0] + found[1].drawn(draw) + found[2]
    return None


def _lists(data: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The lists of a document, by the keys above them; a text is a list of one."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _lists(value, (*keys, str(key)))
    elif isinstance(data, str):
        yield keys, [data]
    elif isinstance(data, list):
        yield keys, [line for line in map(_line, data) if line]


def _line(item: Any) -> str:
    """A line of a list: a text or number, or a table of its text and weight."""
    if isinstance(item, Mapping):
        text = str(item.get("text") or item.get("content") or "").strip()
        return f"{_weight(item['weight'])}::{text}" if text and "weight" in item else text
    return str(item).strip() if isinstance(item, str | int | float) else ""


def _weight(given: Any) -> str:
    """A weight as it stands before `::`, where there are no exponents."""
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise ConfigError(f"weight: {printable(str(given), longest=40)} is none; write one like 0.5")
    return f"{weight:.12f}"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _name(folder: Path | None, path: Path) -> str:
    return path.relative_to(folder or path.anchor).with_suffix("").as_posix()
