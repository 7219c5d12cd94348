"""Pictures of the final round: a run's payloads with seeds that no trial has used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bayes_merger.config import RunConfig
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.paths import user_path
from bayes_merger.run.record import ENOUGH


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
