"""What a run draws: its payloads, resolved once, and whether its models can draw them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.prediction import has_zero_snr
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, printable
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.payload.fields import overlaid, with_distilled_guidance
from bayes_merger.imaging.pipelines.architectures import drawn
from bayes_merger.paths import user_path
from bayes_merger.run.fresh import PARTS, fresh
from bayes_merger.run.web_ui import PROGRAMS

_MOST_FOR_LCM = 5
"""Guidance above which no model or LoRA is known that LCM draws: its models have theirs built in."""


def check_payloads(payloads: Sequence[Payload], model: Checkpoint, prediction: str | None = None) -> None:
    """Check what is drawn, as far as that goes without loading the model.

    Args:
        payloads: resolved.
        model: that the merge starts from.
        prediction: ``generator.prediction_type``.

    Raises:
        ConfigError: a payload that this kind of model cannot draw.
    """
    kind = drawn(model)
    zero_snr = has_zero_snr(model.shapes, prediction)
    for payload in payloads:
        try:
            payload.check()  # those of a study that goes on may be anybody's
            kind.check(payload, model.shapes)
            kind.check_passes(payload, zero_snr=zero_snr)
        except ConfigError as error:
            raise ConfigError(f"payload {payload.name}: {error}") from error


def resolve_payloads(config: RunConfig, model: Checkpoint) -> tuple[Payload, ...]:
    """The payloads of a new study, with their seeds and wildcards drawn once.

    Args:
        config: the settings.
        model: that the merge starts from: what a payload does not say, such as its size, is what suits this model.

    Raises:
        ConfigError: no payload, or one that makes no sense.
    """
    kind = drawn(model)
    usual = kind.defaults(model)
    found = named_payloads(config, usual, distilled=not kind.guided and usual["cfg_scale"] != 1)
    for payload in found:
        if payload.sampler_name.upper().startswith("LCM") and payload.cfg_scale > _MOST_FOR_LCM:
            raise ConfigError(
                f"payload {payload.name}: LCM, a sampler for models distilled to a few steps, burns every picture "
                f"at cfg_scale {payload.cfg_scale:g}; give 1 to 2, or another sampler_name"
            )
    return found


def payloads_of_trials(config: RunConfig, model: Checkpoint) -> tuple[Payload, ...]:
    """What a trial of a new study draws: its payloads, with as many pictures as ``images_per_prompt`` says, if it does.

    Args:
        config: the settings.
        model: that the merge starts from.

    Raises:
        ConfigError: no payload, one that makes no sense, or one of too many pictures.
    """
    payloads, count = resolve_payloads(config, model), config.images_per_prompt
    if count is None:
        return payloads
    found = []
    for payload in payloads:
        try:
            found.append(payload.each_prompt(count))
        except ConfigError as error:
            raise ConfigError(f"images_per_prompt: payload {payload.name}: {error}; give fewer") from error
    return tuple(found)


def named_payloads(
    config: RunConfig, usual: Mapping[str, Any] = MappingProxyType({}), *, distilled: bool = False
) -> tuple[Payload, ...]:
    """The payloads of some settings, with what is usual where they do not say it, and all that is random drawn.

    Args:
        config: the settings.
        usual: field -> value.
        distilled: whether the model's guidance is distilled into it.

    Raises:
        ConfigError: no payload, or one that makes no sense.
    """
    if not config.payloads:
        raise ConfigError("payloads: none chosen; give at least one, like  payloads=portrait")
    read = PROGRAMS.get(config.generator.program, payload_from_mapping)
    folders = ("styles", "wildcards", "loras", "embeddings")
    styles, wildcards, *_ = (there(path_of(getattr(config, name)), name) for name in folders)
    payloads = []
    for name, fields in config.payloads.items():
        if isinstance(fields, Mapping):
            fields = overlaid(usual, with_distilled_guidance(name, fields) if distilled else fields)
        payloads.append(read(name, fields, styles))
    return resolve(payloads, config.seed, wildcards)


def all_drawn(config: RunConfig, payloads: Sequence[Payload], words: Sequence[Sequence[Payload]] = ()) -> list[Payload]:
    """The payloads, and those of the final round, whose words may name other files; ``words`` are its parts."""
    if config.final.images == 0 or not (config.loras or config.embeddings):
        return [*payloads]
    return [*payloads, *(one for part in words or (fresh(config, payloads, part) for part in PARTS) for one in part)]


def path_of(given: str | None) -> Path | None:
    """A file or folder that a setting names, if it does."""
    return user_path(given) if given else None


def there(path: Path | None, setting: str) -> Path | None:
    """A file or folder that a setting names, if it does.

    Raises:
        ConfigError: there is none of that name.
    """
    if path is not None and not os.path.exists(path):  # noqa: PTH110  # Path's own raises where it may not look
        raise ConfigError(f"{setting}: {printable(str(path), longest=200)}: there is no such file or folder")
    return path
