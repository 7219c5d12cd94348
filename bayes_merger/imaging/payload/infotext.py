"""The text that web UIs write into a picture: its prompt, and all that is needed to draw it again.

::

    a red ring
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, Schedule type: Uniform, CFG scale: 7.0, Seed: 1, Size: 512x512, Clip skip: 2, RNG: CPU

As written by `create_infotext` and read by `parse_generation_parameters` of AUTOMATIC1111's web UI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.imaging.payload.payload import Payload

_NEGATIVE = "Negative prompt:"
_PARAMETERS = re.compile(r"Steps: \d+, \w[^\n]*\Z")
_PARAMETER = re.compile(r'\s*(\w[\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|\Z)')

_READ: Mapping[str, tuple[str, type]] = {
    "Steps": ("steps", int),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
    "Variation seed": ("subseed", int),
    "Variation seed strength": ("subseed_strength", float),
    "Denoising strength": ("denoising_strength", float),
    "Eta": ("eta", float),
    "NGMS": ("s_min_uncond", float),
    "Tiling": ("tiling", str),
    "Face restoration": ("restore_faces", str),
    "Hires upscale": ("enable_hr", str),
    "Refiner": ("refiner_checkpoint", str),
}
"""Parameter -> the field of a payload; one that cannot be drawn is refused there."""

_OF_THE_MODEL = (
    "Model", "Model hash", "VAE", "VAE hash", "Version", "RNG", "ENSD", "Batch size", "Batch pos", "User", "Hashes",
    "Lora hashes", "TI hashes", "TI", "Template", "Negative Template", "Hires ", "Refiner switch at", "Emphasis",
    "Module ", "Token merging ratio",
)  # fmt: skip
"""Parameters, and beginnings of them, that a payload does not have."""


def infotext(payload: Payload, index: int) -> str:
    """The text for one picture of a payload; the noise is the CPU's, which web UIs note as `RNG: CPU`."""
    clip_skip = f", Clip skip: {payload.clip_skip}" if payload.clip_skip > 1 else ""
    negative = payload.negative_prompts[index]
    return (
        f"{payload.prompts[index]}\n"
        + (f"{_NEGATIVE} {negative}\n" if negative else "")
        + f"Steps: {payload.steps}, Sampler: {payload.sampler_name}, Schedule type: {payload.scheduler}, "
        f"CFG scale: {payload.cfg_scale}, Seed: {payload.seeds[index]}, Size: {payload.width}x{payload.height}"
        f"{clip_skip}, RNG: CPU"
    )


def is_infotext(text: str) -> bool:
    """Whether a text ends with the parameters of a picture."""
    return bool(_PARAMETERS.match(text.strip().rpartition("\n")[2]))


def read_infotext(text: str) -> dict[str, Any]:
    """The fields of a payload that draws such a picture.

    Raises:
        ConfigError: a parameter that is unknown or cannot be read.
    """
    words, _, parameters = text.strip().rpartition("\n")
    prompt, _, negative = f"\n{words}".partition(f"\n{_NEGATIVE}")
    fields: dict[str, Any] = {"prompt": prompt.strip(), "negative_prompt": negative.strip()}
    for name, value in _PARAMETER.findall(parameters):
        value = json.loads(value) if value.startswith('"') else value.strip()
        try:
            if name == "Size":
                fields["width"], fields["height"] = (int(side) for side in value.split("x"))
            elif name in _READ:
                field, kind = _READ[name]
                fields[field] = kind(value)
            elif not name.startswith(_OF_THE_MODEL):
                raise ConfigError(f"unknown parameter '{name}'; {nearest(name, _READ)}")
        except (ValueError, OverflowError):
            raise ConfigError(f"{name}: '{value}' is no such number") from None
    return fields
