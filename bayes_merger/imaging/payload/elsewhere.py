"""What programs other than A1111 and ComfyUI write about their pictures -> the fields of a payload.

InvokeAI, SwarmUI, Fooocus, NovelAI, Easy Diffusion, Draw Things and Civitai each have names of their own for the same
few things, some inside another table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bayes_merger.imaging.payload.fields import is_field
from bayes_merger.imaging.payload.values import FIELDS

_INSIDE = ("sui_image_params", "meta", "parameters")
"""Tables that hold what is looked for: SwarmUI's, Civitai's, and A1111's in its answers."""

_NAMES: Mapping[str, str] = {
    **{name.replace("_", ""): name for name in FIELDS},
    "positiveprompt": "prompt", "c": "prompt", "uc": "negative_prompt", "nprompt": "negative_prompt",
    "numinferencesteps": "steps", "guidancescale": "cfg_scale", "scale": "cfg_scale", "sampler": "sampler_name",
}  # fmt: skip
"""A name in small letters, without spaces and `_` -> the field."""

_SIZES = ("size", "resolution")


def unwrapped(data: Any) -> Any:
    """The table or text about a picture, where it is inside another one."""
    if isinstance(data, Mapping) and "prompt" not in data:
        return next((data[name] for name in _INSIDE if isinstance(data.get(name), Mapping | str)), data)
    return data


def fields_of(data: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a payload in a table about a picture, and the names that are none."""
    fields: dict[str, Any] = {}
    others: list[str] = []
    for name, value in data.items():
        field = str(name) if is_field(str(name)) else _NAMES.get(re.sub(r"[\s_]", "", str(name)).lower(), "")
        if field:
            fields.setdefault(field, value)
        elif str(name).lower() in _SIZES and (sides := list(_sides(value))):
            fields["width"], fields["height"] = sides
        else:
            others.append(str(name))
    if "positive_prompt" in data and "sampler_name" not in fields and "scheduler" in fields:
        fields["sampler_name"] = fields.pop("scheduler")  # InvokeAI's word for it
    return fields, others


def _sides(value: Any) -> Iterator[int]:
    """Width and height of `512x768`, `(512, 768)` or a list."""
    found = re.fullmatch(r"\D{0,2}(\d{1,5})\D{1,3}(\d{1,5})\D{0,2}", str(value))
    if found:
        yield from map(int, found.groups())
