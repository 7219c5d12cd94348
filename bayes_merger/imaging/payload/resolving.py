"""Seeds and wildcards are resolved once per study: two merges are compared on the same noise and the same words."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload.payload import Payload
from bayes_merger.imaging.payload.values import SEEDS
from bayes_merger.imaging.prompts.networks import network_tags
from bayes_merger.imaging.prompts.wildcards import Wildcards


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
    first, subseed = (
        random.Random(f"{what} of {payload.name} in {seed}").randrange(SEEDS - count) if given < 0 else given
        for what, given in (("seed", payload.seed), ("subseed", payload.subseed))
    )
    try:
        draws = [random.Random(f"words of {payload.name}, {index} in {seed}") for index in range(count)]
        texts = [payload.prompt, payload.negative_prompt]
        texts += [payload.hires.prompt, payload.hires.negative_prompt] if payload.hires else []
        pictures = [[wildcards.expand(text, draw) for text in texts] for draw in draws]
        prompts, negatives, *second = (tuple(words) for words in zip(*pictures, strict=True))
        pairs = zip(("prompts", "negative_prompts"), second, strict=False)
        own: dict[str, Any] = {name: words for name, words in pairs if any(words)}
        varied = bool(payload.subseed_strength)
        resolved = replace(
            payload,
            seed=first,
            prompts=prompts,
            negative_prompts=negatives,
            seeds=(first,) * count if varied else tuple(range(first, first + count)),
            subseed=subseed if varied else payload.subseed,
            subseeds=tuple(range(subseed, subseed + count)) if varied else (),
            hires=payload.hires and replace(payload.hires, **own),
        )
        resolved.check()
        _check_networks(resolved)
    except ConfigError as error:
        raise ConfigError(f"payload {payload.name}: {error}") from error
    return resolved


def _check_networks(payload: Payload) -> None:
    """Refuse a second pass with other LoRAs: a picture is drawn by one model, as is all that shares its batch."""
    for first, second in zip(payload.prompts, payload.second_prompts()[0], strict=False):
        if set(network_tags(first)) != set(network_tags(second)):
            raise ConfigError("hr_prompt: names other LoRAs than the prompt, and both passes are drawn by one model; "
                              "name the same ones in both")  # fmt: skip
