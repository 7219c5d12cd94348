"""``from_effect`` of a configuration's ``space``: weights that are frozen because they were measured to do little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.blocks import blocks_to_string
from bayes_merger.errors import ConfigError, nearest, one_line, printable
from bayes_merger.search.space.rules import read_number

FROM_EFFECT = "from_effect"


@dataclass(frozen=True)
class FromEffect:
    """What a configuration says of a measured effect.

    Attributes:
        file: the table.
        by: the measure that counts; empty: the usual one.
        keep: the share of the effect, over 0 and at most 1, that the weights which are searched must have together.
        at: where the others are frozen; None: each in the middle of its range.
        frozen: once a study has looked: those and their values; None: nobody has looked yet.
        share: then, of the effect, what the frozen ones have together.
        measure: then, which one counted.
    """

    file: str
    by: str = ""
    keep: float = 0.9
    at: float | None = None
    frozen: Mapping[str, float] | None = None
    share: float = 0.0
    measure: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a study stores it."""
        return {name: dict(value) if name == "frozen" else value for name, value in vars(self).items()
                if value is not None}  # fmt: skip


def read_from_effect(guide: Mapping[str, Any]) -> FromEffect | None:
    """What a configuration says of a measured effect, if it does: a file, or a table of the attributes above.

    Raises:
        ConfigError: it has another form.
    """
    value = guide.get(FROM_EFFECT)
    if value is None:
        return None
    table = {"file": value} if isinstance(value, str) else value
    where, known = f"space.{FROM_EFFECT}", [each.name for each in fields(FromEffect)]
    if not isinstance(table, Mapping) or not isinstance(table.get("file"), str) or not table["file"]:
        raise ConfigError(f"{where}: {one_line(repr(value))} is no file; give  {where}=effect.csv")
    if odd := [name for name in table if name not in known]:
        raise ConfigError(f"{where}: unknown setting {odd[0]!r}; {nearest(str(odd[0]), known)}")
    numbers = {name: read_number(table[name], f"{where}.{name}") for name in ("keep", "at", "share")
               if table.get(name) is not None}  # fmt: skip
    keep = numbers.get("keep", FromEffect.keep)
    if not 0 < keep <= 1:
        raise ConfigError(f"{where}.keep: {keep:g} is no share of the effect; give one over 0, at most 1")
    frozen = table.get("frozen")
    if frozen is not None and not isinstance(frozen, Mapping):
        raise ConfigError(f"{where}.frozen: {one_line(repr(frozen))} is no table of names and values")
    if frozen:
        frozen = {str(name): read_number(at, f"{where}.frozen: {name}") for name, at in frozen.items()}
    by, measure = (_text(table.get(name) or "", f"{where}.{name}") for name in ("by", "measure"))
    return FromEffect(table["file"], by, keep, numbers.get("at"), frozen, numbers.get("share", 0.0), measure)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {one_line(repr(value))} is not the name of a measure")
    return value


def as_asked(guide: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a space without what a study has looked up, to compare them with those of a command."""
    found = read_from_effect(guide)
    return {**guide, **({FROM_EFFECT: replace(found, frozen=None, share=0.0, measure="").to_json()} if found else {})}


def about_effect(space: object, order: Sequence[str]) -> str:
    """What is said of the weights that a table of effects has frozen; empty where none was looked at.

    Args:
        space: the settings of the space.
        order: of the blocks.

    Raises:
        ConfigError: the settings were tampered with.
    """
    found = read_from_effect(space) if isinstance(space, Mapping) else None
    if found is None or found.frozen is None:
        return ""
    table = printable(Path(found.file).name)
    if not found.frozen:
        return f"nothing is frozen because of {table}: {found.keep:.0%} of the effect are in all weights"
    values: dict[float, list[str]] = {}
    for name, value in found.frozen.items():
        values.setdefault(value, []).append(name.rpartition(".")[0])
    each = "; ".join(f"{blocks_to_string(blocks, order)} at {value:g}" for value, blocks in values.items())
    return f"frozen because of {table}: {each}, with {found.share:.1%} of the effect ({printable(found.measure)})"
