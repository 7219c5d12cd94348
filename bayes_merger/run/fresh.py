"""Pictures of the final round: a run's payloads with seeds that no trial has used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.paths import user_path
from bayes_merger.run.attributes import FRESH
from bayes_merger.run.record import ENOUGH

PARTS = (0, 1)
"""The merges are chosen by the pictures of the one, and compared by those of the other."""


def fresh(config: RunConfig, payloads: Sequence[Payload], part: int) -> tuple[Payload, ...]:
    """Some payloads with new seeds and words; ``part`` 0 and 1 never share a seed."""
    count = fresh_images(config, payloads)
    without = [
        replace(payload, seed=-1, seeds=(), prompts=(), negative_prompts=(), subseeds=(), batch_size=count)
        for payload in payloads
    ]
    return resolve(without, config.seed + 7919 * (part + 1), user_path(config.wildcards) if config.wildcards else None)


def fresh_images(config: RunConfig, payloads: Sequence[Payload]) -> int:
    """How many fresh pictures of each payload a merge of the final round gets; by default enough to tell in all."""
    wanted = config.final.images
    return max(4, -(-ENOUGH // len(payloads))) if wanted is None else wanted


def drawn_words(config: RunConfig, payloads: Sequence[Payload]) -> tuple[tuple[Payload, ...], ...]:
    """Both parts of the final round, where prompts have choices in them: their lists may be gone when it comes to it.

    Args:
        config: the settings.
        payloads: resolved.

    Returns:
        Nothing where all pictures have the words as they were written.

    Raises:
        ConfigError: a choice that no trial's pictures have taken makes no sense.
    """
    parts = tuple(fresh(config, payloads, part) for part in PARTS)
    return parts if any(map(_has_choices, (*payloads, *parts[0], *parts[1]))) else ()


def stored_words(
    config: RunConfig, payloads: Sequence[Payload], stored: Mapping[str, Any]
) -> tuple[tuple[Payload, ...], ...]:
    """What :func:`drawn_words` gave when the study began; nothing where the final round has another size by now.

    Args:
        config: the settings as they are now.
        payloads: of the study.
        stored: its attributes.

    Raises:
        ConfigError: they are damaged.
    """
    found = stored.get(FRESH) or []
    if not isinstance(found, list) or not all(isinstance(part, list) for part in found):
        raise ConfigError(f"the study's '{FRESH}' is damaged")
    parts = tuple(tuple(map(Payload.from_json, part)) for part in found)
    if len(parts) != len(PARTS) or not payloads:
        return ()
    wanted = [(payload.name, fresh_images(config, payloads)) for payload in payloads]
    return parts if all([(one.name, len(one.seeds)) for one in part] == wanted for part in parts) else ()


def _has_choices(payload: Payload) -> bool:
    written = (payload.prompt, payload.negative_prompt)
    second = payload.hires and (payload.hires.prompt, payload.hires.negative_prompt)
    own = (payload.hires.prompts, payload.hires.negative_prompts) if payload.hires else ((), ())
    drawn = ((payload.prompts, payload.negative_prompts), own)
    return any(
        words != text
        for texts, kinds in zip((written, second or ("", "")), drawn, strict=True)
        for text, many in zip(texts, kinds, strict=True)
        for words in many
    )
