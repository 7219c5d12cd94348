"""The settings of a run as the fields of a form: their kinds from the schema, their words from ``conf/config.yaml``."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bayes_merger.compose.asked import is_for_pages
from bayes_merger.compose.composing import compose_run
from bayes_merger.config import RunConfig, data_root
from bayes_merger.run.choices import GROUPS, choices

_NAMED = ("payloads", "scorers")  # groups of which settings hold what was chosen, by name

KINDS: Mapping[object, str] = {bool: "yes or no", int: "whole number", float: "number"}


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        name: as it is typed.
        kind: ``yes or no``, ``whole number``, ``number`` or ``text``.
        default: as it is typed; empty where there is none.
        about: what it means, in a line.
        choices: the only values that make sense; empty where any may.
    """

    name: str
    kind: str
    default: str
    about: str
    choices: tuple[str, ...] = ()


def fields(values: Mapping[str, Any] | None = None) -> list[Field]:
    """Of all settings that a page may give, in the order of ``conf/config.yaml``.

    Args:
        values: their defaults, the settings of a study; None: those of a new run.

    Raises:
        ConfigError: a file of the user's that is wrong.
    """
    defaults = compose_run(["model_a=a", "model_b=b"]) if values is None else values
    about = dict(_comments((data_root() / "conf" / "config.yaml").read_text(encoding="utf-8")))
    chosen = {group: ",".join(defaults.get(group) or ()) for group in _NAMED}
    found = [Field(one, "text", chosen.get(one, ""), about.get(one, ""), tuple(choices(one))) for one in GROUPS]
    for name, kind, value in _leaves(RunConfig, defaults):
        if name in about and name not in GROUPS and is_for_pages(name):
            found.append(Field(name, kind, typed(value), about[name]))
    return found


def models_dir() -> str | None:
    """Where models are looked for by name, if a configuration file of the user's says so."""
    found = compose_run(["model_a=a", "model_b=b"])["models_dir"]
    return None if found is None else str(found)


def typed(value: Any) -> str:
    """A value as it is typed."""
    if value is None or value in ([], {}):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _leaves(schema: Any, values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str, Any]]:
    hints = typing.get_type_hints(schema)
    for one in dataclasses.fields(schema):
        kind, value = hints[one.name], values.get(one.name)
        if dataclasses.is_dataclass(kind):
            yield from _leaves(kind, value or {}, f"{above}{one.name}.")
            continue
        if isinstance(kind, types.UnionType):
            kind = kind.__args__[0]
        yield f"{above}{one.name}", KINDS.get(kind, "text"), value


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Setting -> the words behind it, which may go on below."""
    above, name, words = "", "", ""
    for line in text.splitlines():
        begun = re.match(r"(  )?(\w+):(.*?)(?:\s#\s?(.*))?$", line)
        if not begun:
            more = re.match(r"\s+#\s?(.*)$", line)
            words += f" {more[1]}" if more else ""
            continue
        if name:
            yield name, words.strip()
        nested, key, value, words = begun[1], begun[2], begun[3], begun[4] or ""
        name = f"{above}.{key}" if nested and above else key
        if not nested:
            above = "" if value.strip() else key
    if name:
        yield name, words.strip()
