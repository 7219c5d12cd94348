"""What the fields of a payload may be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import category

from bayes_merger.errors import ConfigError, printable

SEEDS = 2**32  # of which web UIs draw one
_LAST_SEED = 2**64 - 2**33  # ComfyUI's have 64 bits; room for those of a batch and `eta_noise_seed_delta` above it
LONGEST_PROMPT = 20_000
"""Characters; the text encoder reads 75 tokens at a time."""

_NUMBER = re.compile(r"[-+]?\d{1,20}(?:\.\d{0,20})?", re.ASCII)
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Field:
    """Type and range of one field of a payload; `words` are the texts it may be, in any case, and what they mean."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    multiple: int | None = None
    words: Mapping[str, str] | None = None


FIELDS: Mapping[str, Field] = {
    "prompt": Field(str),
    "negative_prompt": Field(str),
    "steps": Field(int, 1, 1000),
    "cfg_scale": Field(float, 1, 100),
    "width": Field(int, 8, 8192, multiple=8),
    "height": Field(int, 8, 8192, multiple=8),
    "sampler_name": Field(str),
    "scheduler": Field(str),
    "seed": Field(int, -1, _LAST_SEED),
    "batch_size": Field(int, 1, 10_000),
    "n_iter": Field(int, 1, 10_000),
    "clip_skip": Field(int, 1, 12),
    "importance": Field(float, 0, 1e6),
    "subseed": Field(int, -1, _LAST_SEED),
    "subseed_strength": Field(float, 0, 1),
    "eta_noise_seed_delta": Field(int, 0, SEEDS - 1),
    "rng": Field(str, words={"cpu": "cpu", "nv": "nv", "gpu": "nv"}),
    "emphasis": Field(str, words={"original": "Original", "no norm": "No norm", "ignore": "Ignore"}),
}

DRAWN: Mapping[str, Field] = {
    "prompts": Field(str),
    "negative_prompts": Field(str),
    "seeds": Field(int, 0, 2**64 - SEEDS),
    "subseeds": Field(int, 0, 2**64 - SEEDS),
}
"""What each picture of a resolved payload has: the last one's seed lies above the payload's own."""

SECOND_PASS: Mapping[str, Field] = {
    "hr_scale": Field(float, 0.1, 16),
    "hr_resize_x": Field(int, 0, 8192),
    "hr_resize_y": Field(int, 0, 8192),
    "hr_second_pass_steps": Field(int, 0, 1000),
    "denoising_strength": Field(float, 0, 1),
    "hr_upscaler": Field(str),
    "hr_sampler_name": Field(str),
    "hr_scheduler": Field(str),
    "hr_prompt": Field(str),
    "hr_negative_prompt": Field(str),
    "hr_cfg": Field(float, 1, 100),
}
"""Fields that only matter with `enable_hr`."""


def checked(field: str, value: Any, given: str = "") -> Any:
    """A field's value in its type.

    Args:
        field: one of `FIELDS`, `SECOND_PASS` or `DRAWN`.
        value: as written.
        given: what it is called where it was written, for the error.

    Raises:
        ConfigError: a wrong type, or out of range.
    """
    about, given = FIELDS.get(field) or SECOND_PASS.get(field) or DRAWN[field], given or field
    if about.kind is str:
        text = _checked_text(given, value)
        return _word(given, text, about.words) if about.words else text
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):  # programs write numbers into JSON as text
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        comma = "; decimals are behind a point" if re.fullmatch(r"\d+,\d+", str(value)) else ""
        raise ConfigError(f"{given}: expected a number, got {shown(value)}{comma}")
    if about.kind is int and value != int(value):
        raise ConfigError(f"{given}: expected a whole number, got {value!r}")
    if not about.low <= value <= about.high:
        raise ConfigError(f"{given}: {value} is not between {_bound(about, about.low)} and {_bound(about, about.high)}")
    if about.multiple and value % about.multiple:
        near = max(about.multiple, round(value / about.multiple) * about.multiple)
        raise ConfigError(f"{given}: {value} is not a multiple of {about.multiple}; use {near}")
    return about.kind(value)


def _bound(about: Field, bound: float) -> str:
    return str(int(bound)) if about.kind is int else f"{bound:.10g}"


def plain_value(text: str) -> Any:
    """What programs mean that write all values as text: ``"False"``, ``"0.5"``."""
    word = text.strip().lower()
    return _TRUTHS.get(word, float(word) if _NUMBER.fullmatch(word) else text)


def _checked_text(given: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{given}: expected text, got {shown(value)}")
    if len(value) > LONGEST_PROMPT:
        raise ConfigError(f"{given}: {len(value)} characters are too many; give {LONGEST_PROMPT} at most")
    if odd := next((letter for letter in value if category(letter) == "Cc" and letter not in "\t\n\r"), ""):
        raise ConfigError(f"{given}: holds the control character {odd!r}; remove it")
    if odd := next((letter for letter in value if "\ud800" <= letter <= "\udfff"), ""):
        raise ConfigError(f"{given}: holds half of a character ({odd!r}); remove it")
    return value


def _word(given: str, text: str, words: Mapping[str, str]) -> str:
    if text.lower() not in words:
        known = ", ".join(dict.fromkeys(words.values()))
        raise ConfigError(f"{given}: {shown(text)} is not supported; use one of {known}")
    return words[text.lower()]


def check_name(name: str) -> None:
    """Whether a payload can be called so: its pictures are files of that name.

    Raises:
        ConfigError: it cannot.
    """
    if not name or len(name.encode(errors="replace")) > 150 or not name.isprintable() or set(name) & set("/\\"):
        raise ConfigError("cannot be the name of a payload, whose pictures are files; choose another")


def shown(value: Any) -> str:
    """A value for an error."""
    return printable(repr(value), longest=60)
