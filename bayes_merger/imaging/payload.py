"""What is drawn: a payload is a prompt and the numbers that go with it, in AUTOMATIC1111's words.

Seeds and wildcards are resolved once per study, so that two merges are compared on the same noise and the same words.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.imaging.pipelines.schedulers import AUTOMATIC, check_sampler
from bayes_merger.imaging.prompts.prompt import check_prompt
from bayes_merger.imaging.prompts.wildcards import Wildcards

SEEDS = 2**32  # as in web UIs


@dataclass(frozen=True)
class Payload:
    """One prompt and how its pictures are drawn.

    Attributes:
        name: what the payload is called, unique in a study.
        prompt: in A1111's syntax, may hold `__wildcards__`.
        negative_prompt: likewise.
        steps: of the sampler, 1 to 1000.
        cfg_scale: guidance, 1 (none) to 100.
        width: pixels, a multiple of 8.
        height: pixels, a multiple of 8.
        sampler_name: A1111's name, see `imaging.samplers`.
        scheduler: A1111's schedule type.
        seed: of the first picture, the next has `seed + 1`; -1 draws one per study.
        batch_size: pictures of this payload per candidate.
        clip_skip: A1111's "Clip skip": 1 takes the text encoder's last layer, 2 the one before.
        importance: how much this payload counts in the mean; `score_weight` in payload files works too.
        prompts: after `resolve`, one per picture.
        negative_prompts: after `resolve`, one per picture.
        seeds: after `resolve`, one per picture.
    """

    name: str
    prompt: str
    negative_prompt: str = ""
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str = "Euler a"
    scheduler: str = AUTOMATIC
    seed: int = -1
    batch_size: int = 1
    clip_skip: int = 1
    importance: float = 1.0
    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data; `from_json` returns an equal payload."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Payload:
        """The payload that `to_json` wrote."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class _Field:
    """Type and range of one field of a payload file."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    multiple: int | None = None


_FIELDS: Mapping[str, _Field] = {
    "prompt": _Field(str),
    "negative_prompt": _Field(str),
    "steps": _Field(int, 1, 1000),
    "cfg_scale": _Field(float, 1, 100),
    "width": _Field(int, 8, 8192, multiple=8),
    "height": _Field(int, 8, 8192, multiple=8),
    "sampler_name": _Field(str),
    "scheduler": _Field(str),
    "seed": _Field(int, -1, SEEDS - 1),
    "batch_size": _Field(int, 1, 1000),
    "n_iter": _Field(int, 1, 1000),
    "clip_skip": _Field(int, 1, 12),
    "importance": _Field(float, 0, 1e6),
}
_OTHER_NAMES = {
    "score_weight": "importance",
    "neg_prompt": "negative_prompt",
    "cfg": "cfg_scale",
    "sampler_index": "sampler_name",
    "CLIP_stop_at_last_layers": "clip_skip",
}
_MUST_BE_OFF = ("enable_hr", "restore_faces", "tiling")


def payload_from_mapping(name: str, mapping: Mapping[str, Any]) -> Payload:
    """A payload from the fields of a payload file, which are those of A1111's `txt2img` API.

    Args:
        name: what the payload is called.
        mapping: field -> value; only `prompt` is required. `n_iter` multiplies `batch_size`.

    Raises:
        ConfigError: an unknown field, a wrong type, a number out of range, a prompt or sampler that is not supported.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"payload {name}: expected fields such as `prompt: ...`, got {mapping!r}")
    values: dict[str, Any] = {}
    for given, value in mapping.items():
        field = _OTHER_NAMES.get(given, given)
        if given in _MUST_BE_OFF and not value:
            continue
        if field not in _FIELDS:
            raise ConfigError(f"payload {name}: {_unknown(given)}")
        if field in values:
            raise ConfigError(f"payload {name}: {field} is given twice, the second time as {given}; remove one")
        values[field] = _checked(f"payload {name}: {given}", value, _FIELDS[field])
    if not values.get("prompt", "").strip():
        raise ConfigError(f"payload {name}: no prompt; give it a line  prompt: what to draw")
    values["batch_size"] = values.get("batch_size", 1) * values.pop("n_iter", 1)
    try:
        for key in ("prompt", "negative_prompt"):
            check_prompt(values.get(key, ""))
        if "sampler_name" in values or "scheduler" in values:
            sampler = check_sampler(values.get("sampler_name", "Euler a"), values.get("scheduler", AUTOMATIC))
            values["sampler_name"], values["scheduler"] = sampler
    except ConfigError as error:
        raise ConfigError(f"payload {name}: {error}") from error
    return Payload(name=name, **values)


def resolve(payloads: Iterable[Payload], seed: int, wildcards: Path | None = None) -> tuple[Payload, ...]:
    """The payloads with everything random drawn, once: `seeds`, `prompts` and `negative_prompts`, one per picture.

    Each payload draws from its own stream, so adding one changes nothing for the others.

    Args:
        payloads: as in the payload files.
        seed: of the study; the same seed and payloads give the same result on every machine.
        wildcards: folder of `WORD.txt` files, one option per line, that `__WORD__` in prompts stands for.

    Raises:
        ConfigError: two payloads with the same name, a wildcard without a file, a prompt that is not supported.
    """
    given = tuple(payloads)
    names = [payload.name for payload in given]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"payloads: two are called {doubled[0]!r}; rename one")
    return tuple(_resolved(payload, seed, Wildcards(wildcards)) for payload in given)


def _resolved(payload: Payload, seed: int, wildcards: Wildcards) -> Payload:
    count = payload.batch_size
    first = payload.seed
    if first < 0:
        first = random.Random(f"seed of {payload.name} in {seed}").randrange(SEEDS - count)
    prompts, negatives = [], []
    try:
        for index in range(count):
            draw = random.Random(f"words of {payload.name}, {index} in {seed}")
            prompts.append(wildcards.expand(payload.prompt, draw))
            negatives.append(wildcards.expand(payload.negative_prompt, draw))
        for text in {*prompts, *negatives}:
            check_prompt(text)
    except ConfigError as error:
        raise ConfigError(f"payload {payload.name}: {error}") from error
    return dataclasses.replace(
        payload,
        seed=first,
        prompts=tuple(prompts),
        negative_prompts=tuple(negatives),
        seeds=tuple(range(first, first + count)),
    )


def _unknown(field: str) -> str:
    if field in _MUST_BE_OFF:
        return f"{field} is not supported; remove it or set it to false"
    return f"unknown field {field!r}; {nearest(field, {*_FIELDS, 'score_weight'}, listed=20)}"


def _checked(what: str, value: Any, field: _Field) -> Any:
    if field.kind is str:
        if not isinstance(value, str):
            raise ConfigError(f"{what}: expected text, got {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{what}: expected a number, got {value!r}")
    if field.kind is int and value != int(value):
        raise ConfigError(f"{what}: expected a whole number, got {value!r}")
    if not field.low <= value <= field.high:
        raise ConfigError(f"{what}: {value} is not between {field.low:g} and {field.high:g}")
    if field.multiple and value % field.multiple:
        near = max(field.multiple, round(value / field.multiple) * field.multiple)
        raise ConfigError(f"{what}: {value} is not a multiple of {field.multiple}; use {near}")
    return field.kind(value)
