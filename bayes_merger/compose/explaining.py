"""One line for what Hydra says in many."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from bayes_merger.compose.foreign import way_out
from bayes_merger.compose.sources import shown
from bayes_merger.compose.typed import FURTHER
from bayes_merger.compose.verbatim import Verbatim
from bayes_merger.config import data_root
from bayes_merger.errors import ConfigError, nearest, one_line, printable
from bayes_merger.merging.saliency.settings import ACT
from bayes_merger.run.choices import GROUPS, choices

_SAID: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"Value (.+) of type '\w+' could not be converted to Integer", r"\1 is not a whole number"),
        (r"Value (.+) of type '\w+' could not be converted to Float", r"\1 is not a number"),
        (r"Value (.+) is not a valid bool.*", r"\1 is neither true nor false"),
        (r"(?:field '[^']*' is not Optional|Incompatible value 'None' for field of type '\w+')",
         "null is no value of it; leave the setting out"),
        (r"Cannot convert '(?:list|dict)\w*' to string: .*", "expected one value, got several"),
        (r"Invalid type assigned: \w+ is not a subclass of \w+\. value: (.+)",
         r"\1 is one value where there are several; give one of them by its name, NAME.PART=..."),
        (r"Cannot assign \w+ to Dict\[.*", "expected names and values, like {name: value}"),
        (r"Cannot assign \w+ to List\[.*", "expected a list, like [one,two]"),
        (r"Cannot merge \w+Config with \w+Config", "a list, [one,two], is no table, {name: value}"),
    )
)  # fmt: skip
"""What OmegaConf says of a value that is not of a setting's kind -> the same in words for people."""

LONGEST = 300
"""Characters of a library's words that are passed on."""


@contextmanager
def explained(
    overrides: Sequence[str], words: Verbatim, known: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[None]:
    """Composing, with errors of ours.

    Args:
        overrides: as typed.
        words: what stands for texts in Hydra's words.
        known: the names of all settings, given the overrides.

    Raises:
        ConfigError: in the place of Hydra's and OmegaConf's errors.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        line = words.show(_line(error, overrides, known))
        for pattern, ours in _SAID:
            line = pattern.sub(ours, line)
        raise ConfigError(f"{_file(str(error))}{printable(line, longest=LONGEST)}") from error
    except (OSError, ValueError, RecursionError) as error:  # names and numbers that are longer than anything has
        raise ConfigError(f"settings: not understood ({printable(one_line(error))})") from error


def _line(error: Exception, overrides: Sequence[str], known: Callable[[Sequence[str]], Sequence[str]]) -> str:
    text = str(error)
    if isinstance(error, OverrideParseException):
        key = str(error.override).lstrip("+").partition("=")[0]
        return f"'{key}' is no setting's name; {way_out(key, known(overrides))}"
    if found := re.search(r"Could not (?:find|load) '([^'/]+)/([^']+)'", text):
        group, choice = found.groups()
        if group == "experiment" and "/" in choice:  # a file's `defaults`, which may name groups of other programs
            group, choice = choice.split("/", 1)
        if group not in GROUPS:
            return f"defaults: no group '{group}'; {way_out(group, GROUPS)}"
        return f"{group}: no '{choice}'; {nearest(choice, choices(group))}"
    if found := re.search(r"Key '([^']+)' (?:is not in struct|not in)", text):
        key = found.group(1)
        full = next((o.partition("=")[0] for o in overrides if o.partition("=")[0].split(".")[-1] == key), key)
        if full in FURTHER:
            return f"{full}: in a YAML file it is written  models: {{{full[-1]}: FILE}}"
        return f"unknown setting '{full}'; {way_out(full, known(overrides))}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found.group(1)}: several values; run a study with each by  --multirun"
    if found := re.search(r"Could not override '([^']+)'", text):
        full = found.group(1)
        file = next((o.removeprefix(f"{full}={ACT}") for o in overrides if o.startswith(f"{full}={ACT}")), "")
        if file:
            return f"{full}: in a run it is  act.{full.rpartition('.')[2]}={file}"
        return f"unknown setting '{full}'; {way_out(full, known(overrides))}"
    if found := re.search(r"Error merging override (.+)", text):
        reason = str(error.__cause__ or "").partition("\n")[0]
        return f"{found.group(1).lstrip('+').partition('=')[0]}: {reason}"
    text = getattr(error, "msg", None) or re.sub(r"\AIn '[^']+': \w+ raised while composing config:\n", "", text)
    named = re.search(r"full_key: (\S+)", str(error))
    key = str(getattr(error, "full_key", None) or (named[1] if named else ""))
    value = " ".join(line.strip() for line in text.partition("\n    full_key")[0].strip().splitlines()[:2])
    return f"{key}: {value}" if key and key not in value else value


def _file(text: str) -> str:
    """The file that Hydra could not lay over the others, if it says so."""
    found = re.match(r"In '([^']+)': \w+ raised while", text)
    if not found:
        return ""
    name = found[1].replace("own/config", "config") + ".yaml"
    places = (Path.cwd() / "conf" / name, Path.cwd() / name, data_root() / "conf" / name, data_root() / name)
    return next((f"{shown(place)}: " for place in places if place.is_file()), "")
