"""What a page may ask to be run: settings that name no file, no program and no place.

Who types in a terminal may do anything anyway. Who has a page may start runs and no more, so a setting that would read
or write a file by its path, build an object, or reach another machine is refused here; everything else is then composed
as it is for the terminal.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bayes_merger.compose.building import TRUSTED
from bayes_merger.compose.payloads import is_text
from bayes_merger.compose.typed import FILES, PATHS, gathered, in_full
from bayes_merger.errors import ConfigError, nearest, one_line, printable
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.merging.rebasin.written import FILE, files_and_orders, table_of
from bayes_merger.merging.saliency.settings import CHOICES
from bayes_merger.merging.saliency.settings import FILES as SALIENT
from bayes_merger.run.choices import GROUPS, choices

MODELS = (*(f"model_{name}" for name in MODEL_NAMES), "models")

_TERMINAL = "start this run from a terminal"

_PLACES = {*PATHS, *FILES, "saliency", "act", "recipe", "web", "notify", "hydra", "out"} - {*MODELS, "vae"}
"""Settings that are files, folders, addresses, or Hydra's own."""

_FURTHER_PLACES = {"anchors": r"|\.[A-Za-z]\w*", FILE: "|config"}
"""What else names a place in the value of a setting."""

_OF_SCORERS = ("importance", "scale")
"""All that may be changed of a scorer; its other settings name files and addresses."""

_OF_SALIENCY = tuple(f"saliency.{name}" for name in CHOICES)
"""All that may be said of it beside its files."""


def split_line(line: str) -> list[str]:
    """Settings as they are typed on one line.

    Raises:
        ConfigError: a quote that is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"settings: {one_line(error)}; close the quote") from None


def check_asked(overrides: Sequence[str], models: Collection[str], activations: Collection[str] = ()) -> None:
    """Whether a page may ask for these settings.

    Args:
        overrides: as typed.
        models: the names that models may be given by.
        activations: those of files of activations.

    Raises:
        ConfigError: one that only a terminal may give, or that names what is not there.
    """
    for override in gathered(overrides):
        key, equals, value = in_full(override).partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
            raise ConfigError(f"settings: '{printable(override)}': on a page they are given like  name=value")
        if _is_activations(key):
            _check_named(key, value, activations, "file of activations")
            continue
        if key not in _OF_SALIENCY:
            _check_key(key)
        if key.partition(".")[0] in MODELS:
            _check_model(key, value, models)
        elif key == "vae":
            _check_model(key, value, {*models, "a", "b", "merge"})
        elif not is_text(key):
            _check_value(key, value)


def is_for_pages(key: str) -> bool:
    """Whether a page may give a setting."""
    parts = key.split(".")
    above = {".".join(parts[: number + 1]) for number in range(len(parts))}
    reaches = any(part in TRUSTED or part.startswith("_") for part in parts)
    of_scorer = parts[0] == "scorers" and len(parts) > 1 and (len(parts) < 3 or parts[2] not in _OF_SCORERS)
    of_folder = parts[0] == FILE and parts[-1] == "config"
    return not (above & _PLACES or reaches or of_scorer or of_folder)


def _check_key(key: str) -> None:
    if not is_for_pages(key):
        raise ConfigError(f"{printable(key)}: may not be given on a page; {_TERMINAL}")


def _check_model(key: str, value: Any, models: Collection[str]) -> None:
    value = table_of(key, value)
    if isinstance(value, Mapping):
        files, orders = files_and_orders({key: value}, {}, "{}")
        for part, given in orders[key].items():
            _check_key(f"{FILE}.{part}")
            _check_value(key, str(given))
        value = files[key]
    _check_named(key, value, models, "model")


def _check_named(key: str, value: str, names: Collection[str], what: str) -> None:
    if value not in names and value not in ("", "null"):
        known = nearest(value, names) if names else "none was found: serve --models FOLDER says where they are"
        raise ConfigError(f"{printable(key)}: no {what} '{printable(value)}'; {known}")


def _is_activations(key: str) -> bool:
    """Whether a setting names a file of activations."""
    return key in (f"saliency.{name}" for name in SALIENT) or bool(re.fullmatch(r"act\.[A-Za-z]\w*", key))


def _check_value(key: str, value: str) -> None:
    """No path, nothing that is filled in from elsewhere, nothing that is built."""
    if key in GROUPS:
        known = [*choices(key), "null"]
        for name in filter(None, re.split(r"[\[\],\s'\"]+", value)):
            if name not in known:
                raise ConfigError(f"{key}: no '{printable(name)}'; {nearest(name, known)}")
    elif found := re.search(r"[/\\~]|\.\.|\$\{|_target_" + _FURTHER_PLACES.get(key.partition(".")[0], ""), value):
        raise ConfigError(f"{printable(key)}: '{found[0]}' may not be in it on a page; {_TERMINAL}")
