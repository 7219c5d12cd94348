"""What is drawn: a payload is a prompt and the numbers that go with it, in AUTOMATIC1111's words.

Seeds and wildcards are resolved once per study, so that two merges are compared on the same noise and the same words.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError, printable
from bayes_merger.imaging.payload.values import FIELDS, SEEDS, check_name, checked
from bayes_merger.imaging.pipelines.schedulers import AUTOMATIC
from bayes_merger.imaging.prompts.prompt import check_prompt
from bayes_merger.imaging.prompts.wildcards import Wildcards


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
        """The payload that `to_json` wrote, resolved.

        Raises:
            ConfigError: it is no such payload; studies are sent by others, too.
        """
        try:
            check_name(data["name"])
            drawn: dict[str, Any] = {key: tuple(data[key]) for key in ("prompts", "negative_prompts", "seeds")}
            read: dict[str, Any] = {key: checked(key, data[key]) for key in FIELDS if key in data}
            if not all(len(values) == read["batch_size"] for values in drawn.values()):
                raise ConfigError("it does not have as many prompts and seeds as pictures")
            for field, values in drawn.items():
                for value in values:
                    checked(field.removesuffix("s"), value)
            return cls(name=data["name"], **read, **drawn)
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"a payload of the study is damaged: {printable(str(error))}") from error


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
            check_prompt(checked("prompt", text))
    except ConfigError as error:
        raise ConfigError(f"payload {payload.name}: {error}") from error
    return dataclasses.replace(
        payload,
        seed=first,
        prompts=tuple(prompts),
        negative_prompts=tuple(negatives),
        seeds=tuple(range(first, first + count)),
    )
