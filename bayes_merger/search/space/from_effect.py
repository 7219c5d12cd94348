"""``from_effect`` of a configuration's ``space``: weights that are frozen because they were measured to do little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    """

    file: str
    by: str = ""
    keep: float = 0.9
    at: float | None = None
    frozen: Mapping[str, float] | None = None
    share: float = 0.0

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
    if not 0 < numbers.get("keep", 1) <= 1:
        raise ConfigError(f"{where}.keep: {numbers['keep']:g} is no share of the effect; give one over 0, at most 1")
    frozen = table.get("frozen")
    if frozen is not None and not isinstance(frozen, Mapping):
        raise ConfigError(f"{where}.frozen: {one_line(repr(frozen))} is no table of names and values")
    if frozen:
        frozen = {str(name): read_number(at, f"{where}.frozen: {name}") for name, at in frozen.items()}
    if not isinstance(by := table.get("by") or "", str):
        raise ConfigError(f"{where}.by: {one_line(repr(by))} is not the name of a measure")
    return FromEffect(table["file"], by, frozen=frozen, **numbers)


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
    of = f"of the effect ({printable(found.by)}) in {printable(found.file)}"
    if not found.frozen:
        return f"every measured weight is searched: none is left out of {found.keep:.0%} {of}"
    values: dict[float, list[str]] = {}
    for name, value in found.frozen.items():
        values.setdefault(value, []).append(name.rpartition(".")[0])
    each = "; ".join(f"{blocks_to_string(blocks, order)} at {value:g}" for value, blocks in values.items())
    return f"{len(found.frozen)} weights are frozen, which have {found.share:.1%} {of}: {each}"
