"""Payloads that a web UI draws: whatever it understands is passed on to it as it was written.

Only what compares merges is ours: the words with their wildcards drawn once, the seeds, how many pictures, and how much
they count. The fields are those of A1111's `txt2img` API, and the few that Forge adds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.fields import (
    SETTINGS_ABOUT_FILES,
    is_field,
    leave_comments_out,
    own_name,
    put_on,
    read_fields,
    style_names,
)
from bayes_merger.imaging.payload.payload import Payload
from bayes_merger.imaging.payload.values import check_name, shown
from bayes_merger.imaging.prompts.wildcards import Wildcards

_OURS = (
    "prompt", "negative_prompt", "steps", "cfg_scale", "width", "height", "sampler_name", "scheduler", "seed",
    "batch_size", "n_iter", "importance", "subseed", "subseed_strength",
)  # fmt: skip
_AS_SETTINGS = {
    "clip_skip": "CLIP_stop_at_last_layers",
    "rng": "randn_source",
    "emphasis": "emphasis",
    "eta_noise_seed_delta": "eta_noise_seed_delta",
}
"""Fields here that are settings of the web UI."""

_OURS_TO_SAY = frozenset({
    "save_images", "send_images", "do_not_save_samples", "do_not_save_grid", "comments", "force_task_id",
    "session_hash", "override_settings_restore_afterwards",
})  # fmt: skip
"""Fields about the request and its files."""

SAME_SAMPLER, SAME_SCHEDULE = "Use same sampler", "Use same scheduler"
"""What the page of a web UI calls a second pass like the first; its API wants the fields left out."""

_REFUSED = {
    "script_name": "a script draws other pictures than those asked for",
    "script_args": "a script draws other pictures than those asked for",
    "infotext": "the fields say what is drawn",
    "firstpass_image": "a picture is no payload",
}


def payload_for_web_ui(name: str, mapping: Mapping[str, Any], styles: Path | None = None) -> Payload:
    """A payload that a web UI draws, from the fields of a payload file.

    Args:
        name: what the payload is called.
        mapping: field -> value; only `prompt` is required.
        styles: a `styles.csv`, where the styles are put around the prompts here; None leaves that to the web UI.

    Raises:
        ConfigError: a field that no web UI has, one that cannot be passed on, a wrong type, a number out of range.
    """
    what = f"payload {printable(str(name), longest=60)}"
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{what}: expected fields such as `prompt: ...`, got {shown(mapping)}")
    try:
        check_name(name)
        ours, passed_on = _split(mapping)
        values = read_fields(ours)
        for field in ("hr_prompt", "hr_negative_prompt") if passed_on.get("enable_hr") else ():
            _check_plain(field, str(passed_on.get(field) or ""))
        if styles is not None:
            put_on(style_names(mapping), styles, values)
            passed_on.pop("styles", None)
        leave_comments_out(mapping, values)  # a wildcard in one is none
        return Payload(name=name, **values, passed_on=passed_on)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


def _split(mapping: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that are ours, and those that are passed on."""
    ours: dict[str, Any] = {}
    passed_on: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for given, value in mapping.items():
        field = str(given)
        if field in _OURS_TO_SAY or value is None:
            continue
        if field in _REFUSED:
            if value not in ("", "None", [], {}):
                raise ConfigError(f"{field} cannot be passed on to a web UI ({_REFUSED[field]}); remove it")
        elif own_name(field) in _OURS:
            ours[field] = value
        elif own_name(field) in _AS_SETTINGS:
            settings[_AS_SETTINGS[own_name(field)]] = str(value).upper() if own_name(field) == "rng" else value
        elif field == "override_settings" and isinstance(value, Mapping):
            settings |= _settings(value)
        elif is_field(field):
            passed_on[field] = value
        else:
            raise ConfigError(f"unknown field {shown(field)}; {nearest(field, {*_OURS, *_AS_SETTINGS}, listed=20)}")
    return ours, passed_on | ({"override_settings": settings} if settings else {})


def _check_plain(field: str, words: str) -> None:
    """Refuse choices: the web UI would take them for words, or draw them anew for every merge."""
    try:
        plain = Wildcards(None).expand(words, random.Random(0)) == words
    except ConfigError:  # as a list of words without its folder
        plain = False
    if not plain:
        raise ConfigError(f"{field}: choices such as {{a|b}} and __a__ are drawn in prompt alone; write its words out")


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    for setting in ("sd_model_checkpoint", "sd_checkpoint_hash"):
        if settings.get(setting):
            raise ConfigError(f"override_settings.{setting}: the model is the merge; remove it")
    return {str(key): value for key, value in settings.items() if not str(key).startswith(SETTINGS_ABOUT_FILES)}


@dataclass(frozen=True)
class Request:
    """Some pictures of one payload that a web UI draws at once.

    Attributes:
        payload: which.
        indices: of the pictures, in order.
    """

    payload: Payload
    indices: tuple[int, ...]

    def body(self, checkpoint: str) -> dict[str, Any]:
        """What is sent to `txt2img`.

        Args:
            checkpoint: the model's title in the web UI's list.
        """
        payload, first = self.payload, self.indices[0]
        given = payload.passed_on or {}
        passed_on = {field: value for field, value in given.items() if value not in (SAME_SAMPLER, SAME_SCHEDULE)}
        if passed_on.get("enable_hr"):  # Forge's second pass fails without it; A1111 has no such field
            passed_on.setdefault("hr_additional_modules", ["Use same choices"])
        settings = {**passed_on.pop("override_settings", {}), "sd_model_checkpoint": checkpoint}
        variation = {"subseed": payload.subseeds[first]} if payload.subseeds else {}
        return {
            **passed_on,
            "prompt": payload.prompts[first],
            "negative_prompt": payload.negative_prompts[first],
            "steps": payload.steps,
            "cfg_scale": payload.cfg_scale,
            "width": payload.width,
            "height": payload.height,
            "sampler_name": payload.sampler_name,
            "scheduler": payload.scheduler,
            "seed": payload.seeds[first],
            **variation,
            "subseed_strength": payload.subseed_strength,
            "batch_size": len(self.indices),
            "n_iter": 1,
            "override_settings": settings,
            "override_settings_restore_afterwards": True,
            "send_images": True,
            "save_images": False,
        }

    def __str__(self) -> str:
        return f"payload {self.payload.name}, seed {self.payload.seeds[self.indices[0]]}"


def requests(payloads: Sequence[Payload], most: int) -> Iterator[Request]:
    """Payloads as requests: what has the same words and follows in the seeds is drawn at once, as web UIs count them.

    Args:
        payloads: resolved.
        most: pictures in one request.
    """
    for payload in payloads:
        counted = payload.subseeds or payload.seeds
        pictures = list(zip(payload.prompts, payload.negative_prompts, counted, strict=True))
        group: list[int] = []
        for index, (prompt, negative, seed) in enumerate(pictures):
            if group:
                before = pictures[group[-1]]
                if len(group) == most or (prompt, negative, seed - 1) != before:
                    yield Request(payload, tuple(group))
                    group = []
            group.append(index)
        if group:
            yield Request(payload, tuple(group))
