"""Which payloads a run draws: files that are chosen, and fields that are set.

Hydra only hears which files are named in its defaults lists; what is in them never passes through it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayes_merger.documents import parse_document
from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.fields import TEXT_FIELDS, overlaid, own_name
from bayes_merger.imaging.payload.files import read_payloads
from bayes_merger.run.choices import PAYLOADS, payload_places


def is_text(key: str) -> bool:
    """Whether a setting is text of a payload, such as its prompt."""
    return key.startswith(f"{PAYLOADS}.") and key.rpartition(".")[2] in TEXT_FIELDS


@dataclass(frozen=True)
class TypedPayloads:
    """What the command line says of payloads.

    Attributes:
        chosen: files, of ``payloads=a,b``; None where nothing is said.
        fields: ``NAME.field`` and its value as typed, of ``payloads.NAME.field=value``; None takes it away.
    """

    chosen: tuple[str, ...] | None
    fields: tuple[tuple[str, str | None], ...]

    def applied(self, files: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """Payload -> its fields.

        Args:
            files: chosen elsewhere, if the command line does not choose others.
            given: fields by payload that are laid over those of the files.

        Raises:
            ConfigError: a file that is not there or makes no sense, or a field of a payload that is not chosen.
        """
        payloads: dict[str, Any] = read_payloads(files if self.chosen is None else self.chosen, payload_places())
        for name, fields in given.items():
            payloads[name] = overlaid(payloads.get(name, {}), fields) if isinstance(fields, Mapping) else fields
        known = tuple(payloads)
        for key, value in self.fields:
            name, _, field = _split(key, payloads)
            if value is None:
                payloads.pop(name, None)
            elif not isinstance(before := payloads.get(name, {}), Mapping):
                raise ConfigError(f"payloads: {printable(name)} is no table of fields")
            else:
                payloads[name] = overlaid(before, _typed(key, field, value, before))
        for name, fields in payloads.items():
            if name not in known and "prompt" not in map(own_name, fields):
                raise ConfigError(f"payloads.{printable(name)}: no payload is called so; {nearest(name, known)}")
        return payloads


def split_payloads(overrides: Sequence[str]) -> tuple[TypedPayloads, list[str]]:
    """What is said of payloads, and the other settings."""
    chosen: tuple[str, ...] | None = None
    fields: list[tuple[str, str | None]] = []
    others = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if key == PAYLOADS:
            chosen = _names(value)
        elif key.startswith(f"{PAYLOADS}."):
            fields.append((key.removeprefix(f"{PAYLOADS}."), value))
        elif key.startswith(f"~{PAYLOADS}.") and not equals:
            fields.append((key.removeprefix(f"~{PAYLOADS}."), None))
        else:
            others.append(override)
    return TypedPayloads(chosen, tuple(fields)), others


def _names(value: str) -> tuple[str, ...]:
    inner = value.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    names = (name.strip().strip("'\"") for name in re.findall(r"""\s*"[^"]*"|\s*'[^']*'|[^,]+""", inner))
    return tuple(name for name in names if name and inner != "null")


def _split(key: str, payloads: Mapping[str, Any]) -> tuple[str, str, str]:
    """A payload's name, which may have dots in it, and the field."""
    for name in sorted(payloads, key=len, reverse=True):
        if key == name or key.startswith(f"{name}."):
            return name, ".", key[len(name) + 1 :]
    return key.partition(".")


def _typed(key: str, field: str, value: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Fields from what was typed for ``field``, perhaps one of a table (``override_settings.X``), perhaps for all."""
    first, *inner = field.split(".")
    read: Any = value
    try:
        if first not in TEXT_FIELDS or inner:
            read = parse_document(value, text_of=TEXT_FIELDS)
    except ConfigError as error:
        raise ConfigError(f"payloads.{printable(key)}: {error}") from None
    for part in reversed(inner):
        read = {part: read}
    if inner and isinstance(table := before.get(first), Mapping):
        read = {**table, **read}
    if first:
        return {first: read}
    if not isinstance(read, dict):
        raise ConfigError(f"payloads.{printable(key)}: give a field of it, like  payloads.{printable(key)}.steps=30")
    return read
