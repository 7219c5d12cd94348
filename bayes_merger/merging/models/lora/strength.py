"""How strong a LoRA is: alpha over rank, wherever a file says them.

The places, the first that says an alpha counts:

1. ``NAME.alpha``, a number of any dtype, beside the layer's factors (kohya, LyCORIS, OneTrainer);
2. ``lora_adapter_metadata`` in the header, the configuration of PEFT for each part of the model (diffusers);
3. ``lora_alpha``, ``network_alpha``, ``ss_network_alpha`` or ``alpha`` in the header, one number for all;
4. ``adapter_config.json`` beside the file (PEFT), for layers with PEFT's names.

A configuration of PEFT may have an alpha and a rank of their own for some layers (``alpha_pattern``, ``rank_pattern``),
and divide by the root of the rank (rsLoRA, https://arxiv.org/abs/2312.03732). A pattern is a regular expression for the
whole name of a layer, or for its end after a dot, the first that fits counts:
``get_pattern_key`` in https://github.com/huggingface/peft.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bayes_merger.errors import CheckpointError, one_line, printable

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's configuration of an adapter, beside its file."""

_HEADER = "lora_adapter_metadata"
_PLAIN = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")
_PART = re.compile(r"(?:base_model\.model\.)?(?:(unet|transformer|text_encoder(?:_\d)?)\.)?(?:base_model\.model\.)?")

_LARGEST = 1e4  # strength; whoever means more scales the factors
_LARGEST_CONFIG = 2**20  # bytes
# Regular expressions come from other people's files and run on every layer's name; these limits keep that short.
_PATTERNS, _COMPLEX, _LONGEST = 2000, 20, 300
_REPEATS, _GROUPS = re.compile(r"[*+?{][?+]?"), re.compile(r"\(")


@dataclass(frozen=True)
class AdapterConfig:
    """A configuration of PEFT, as far as it says how an adapter is applied.

    Attributes:
        values: of its fields.
        where: it stands, for errors.
    """

    values: Mapping[str, Any]
    where: str

    def alpha(self, name: str) -> float | None:
        """The alpha of a layer."""
        return self._of(name, "alpha_pattern", ("lora_alpha", "alpha"))

    def rank(self, name: str) -> float | None:
        """The rank of a layer."""
        return self._of(name, "rank_pattern", ("r", "rank"))

    @property
    def by_root(self) -> bool:
        """Whether alpha is divided by the root of the rank."""
        return self.values.get("use_rslora") is True

    def __bool__(self) -> bool:
        return bool(self.values)

    def _of(self, name: str, patterns: str, fields: tuple[str, ...]) -> float | None:
        for pattern, own in self._patterns[patterns]:
            if pattern.match(name):
                return _number(own, f"{self.where}: {patterns}")
        found = next((key for key in fields if self.values.get(key) is not None), None)
        return None if found is None else _number(self.values[found], f"{self.where}: {found}")

    @cached_property
    def _patterns(self) -> dict[str, list[tuple[re.Pattern[str], Any]]]:
        return {name: self._compiled(name) for name in ("alpha_pattern", "rank_pattern")}

    def _compiled(self, field_name: str) -> list[tuple[re.Pattern[str], Any]]:
        written = self.values.get(field_name) or {}
        if not isinstance(written, dict):
            raise CheckpointError(f"{self.where}: {field_name} is no table of patterns; remove it")
        involved = [text for text in written if _REPEATS.search(text) or _GROUPS.search(text)]
        for text in written:
            slow = len(_REPEATS.findall(text)) > 2 or len(_GROUPS.findall(text)) > 1 or re.search(r"\)[*+{]", text)
            if slow or len(text) > _LONGEST or len(written) > _PATTERNS or len(involved) > _COMPLEX:
                shown = printable(text, longest=60)
                raise CheckpointError(
                    f"{self.where}: {field_name}: '{shown}' is too much to match; write names of layers"
                )
        try:
            return [(re.compile(rf"(.*\.)?({text})$"), own) for text, own in written.items()]
        except (re.error, OverflowError, RecursionError):
            raise CheckpointError(f"{self.where}: {field_name} holds what is no regular expression; mend it") from None


@dataclass(frozen=True)
class Strengths:
    """What a LoRA file and its folder say about its strength.

    Attributes:
        path: of the file.
        metadata: strings from its header.
    """

    path: Path
    metadata: Mapping[str, str] = field(repr=False)

    def of(self, name: str, alpha: float | None, rank: int) -> float | None:
        """What the product of a layer's factors is multiplied by.

        Args:
            name: of the layer in the file.
            alpha: from the file's tensor, if there is one.
            rank: of the factors; 0 where they do not tell.

        Returns:
            ``None`` where it is said nowhere, which means 1.

        Raises:
            CheckpointError: what says it is damaged, or the strength is out of all proportion.
        """
        root = False
        if alpha is None:
            config, own = self._config_for(name)
            alpha = config.alpha(own)
            rank, root = rank or int(config.rank(own) or 0), config.by_root
        if alpha is None:
            return None
        strength = alpha / (math.sqrt(rank) if root else rank) if rank else 1.0
        if not abs(strength) <= _LARGEST:  # NaN too
            raise CheckpointError(
                f"'{printable(name)}' has an alpha of {alpha:g} for a rank of {rank}; the file is damaged, use another"
            )
        return strength

    def config(self, name: str) -> AdapterConfig:
        """PEFT's configuration for a layer; an empty one where there is none."""
        return self._config_for(name)[0]

    def _config_for(self, name: str) -> tuple[AdapterConfig, str]:
        """The configuration for a layer, and the layer's name as that calls it."""
        found = _PART.match(name)
        part, own = (found[1] or "", name[found.end() :]) if found else ("", name)
        place = (part, "." in name)
        if place not in self._configs:
            self._configs[place] = self._config_of(*place)
        return self._configs[place], own

    def _config_of(self, part: str, dotted: bool) -> AdapterConfig:
        start = f"{part}."
        of_part = {key.removeprefix(start): v for key, v in self._header.items() if part and key.startswith(start)}
        if values := of_part or {key: value for key, value in self._header.items() if "." not in key}:
            return AdapterConfig(values, f"its header's {_HEADER}")
        for plain in _PLAIN:
            if (number := _text_number(self.metadata.get(plain, ""))) is not None:
                return AdapterConfig({"lora_alpha": number}, f"its header's {plain}")
        return self._beside if dotted else AdapterConfig({}, "")

    @cached_property
    def _configs(self) -> dict[tuple[str, bool], AdapterConfig]:
        return {}

    @cached_property
    def _header(self) -> dict[str, Any]:
        return _table(self.metadata.get(_HEADER, "{}"), f"its header's {_HEADER}")

    @cached_property
    def _beside(self) -> AdapterConfig:
        file = self.path.with_name(ADAPTER_CONFIG)
        try:
            if not file.is_file():
                return AdapterConfig({}, "")
            if file.stat().st_size > _LARGEST_CONFIG:
                raise CheckpointError(f"{ADAPTER_CONFIG} beside it has more than {_LARGEST_CONFIG} bytes; remove it")
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{ADAPTER_CONFIG} beside it cannot be read ({one_line(error)})") from error
        return AdapterConfig(_table(text, f"{ADAPTER_CONFIG} beside it"), f"{ADAPTER_CONFIG} beside it")


def _table(text: str, where: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits are ValueErrors too
        table = None
    if not isinstance(table, dict):
        raise CheckpointError(f"{where} is no JSON object, so its strength is unknown; mend or remove it")
    return table


def _text_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _number(value: Any, where: str) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not abs(value) <= 1e9:  # NaN too; a whole number may be too long to be a float
        raise CheckpointError(
            f"{where} is {printable(_shown(value), longest=40)}, which is no strength; mend or remove it"
        )
    return float(value)


def _shown(value: Any) -> str:
    return "a number of many digits" if isinstance(value, int) and abs(value) > 10**40 else repr(value)
