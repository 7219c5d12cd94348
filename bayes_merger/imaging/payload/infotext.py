"""The text that web UIs write into a picture: its prompt, and all that is needed to draw it again.

::

    a red ring
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, Schedule type: Uniform, CFG scale: 7.0, Seed: 1, Size: 512x512, Clip skip: 2, RNG: CPU

As written by `create_infotext` and read by `parse_generation_parameters` of AUTOMATIC1111's web UI; Forge and Civitai
have some parameters of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.fields import with_hashes_drawn
from bayes_merger.imaging.payload.payload import Payload

_NEGATIVE = "Negative prompt:"
_PARAMETERS = re.compile(
    r"^(?:Steps: \d+(?:\.0+)?, \w.*"
    r"|(?:(?:Steps|Sampler|Schedule type|CFG scale|Seed|Size|Model(?: hash)?): [^,\n]+(?:, |$)){3}.*)$",
    re.MULTILINE,
)
"""The last line: it begins with the steps, or with three others that are in every picture."""

_TEMPLATE = re.compile(r"\s*^(?:Negative )?Template: .*\Z", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"([^\s,:][^,:]{0,80}):\s*")
_VALUE = re.compile(r'("(?:\\.|[^\\"])*"|\d+,\d+(?=\s*(?:,|\Z))|[^,]*)')  # some programs write 7,5

_READ: Mapping[str, tuple[str, type]] = {
    "Steps": ("steps", int),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", float),
    "Distilled CFG Scale": ("distilled_cfg_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
    "CLIP skip": ("clip_skip", int),
    "RNG": ("rng", str),
    "Emphasis": ("emphasis", str),
    "ENSD": ("eta_noise_seed_delta", int),
    "Variation seed": ("subseed", int),
    "Variation seed strength": ("subseed_strength", float),
    "Denoising strength": ("denoising_strength", float),
    "Eta": ("eta", float),
    "NGMS": ("s_min_uncond", float),
    "Tiling": ("tiling", str),
    "Face restoration": ("restore_faces", str),
    "Hires upscale": ("hr_scale", float),
    "Hires upscaler": ("hr_upscaler", str),
    "Hires steps": ("hr_second_pass_steps", int),
    "Hires sampler": ("hr_sampler_name", str),
    "Hires schedule type": ("hr_scheduler", str),
    "Hires prompt": ("hr_prompt", str),
    "Hires negative prompt": ("hr_negative_prompt", str),
    "Hires CFG Scale": ("hr_cfg", float),
    "Hires Distilled CFG Scale": ("hr_distilled_cfg", float),
    "Hires checkpoint": ("hr_checkpoint_name", str),
    "Refiner": ("refiner_checkpoint", str),
}
"""Parameter -> the field of a payload; one that cannot be drawn is refused there."""

_SIZES = {
    "Size": ("width", "height"),
    "Hires resize": ("hr_resize_x", "hr_resize_y"),
    "First pass size": ("firstphase_width", "firstphase_height"),
    "Seed resize from": ("seed_resize_from_w", "seed_resize_from_h"),
}

_OF_THE_MODEL = (
    "Model", "Model hash", "VAE", "VAE hash", "Version", "Batch size", "Batch pos", "User", "Hashes", "Lora hashes",
    "TI hashes", "TI", "Template", "Negative Template", "Refiner switch at", "Module ", "Token merging ratio",
    "Created Date", "Civitai ", "Hires Module ", "Hires VAE", "Diffusion in Low Bits",
    "Study", "Trial", "Score", "Recipe",
)  # fmt: skip
"""Parameters, and beginnings of them, that a payload does not have."""


def infotext(payload: Payload, index: int) -> str:
    """The text for one picture of a payload."""
    negative = payload.negative_prompts[index]
    return (
        f"{payload.prompts[index]}\n"
        + (f"{_NEGATIVE} {negative}\n" if negative else "")
        + ", ".join(f"{name}: {_quoted(value)}" for name, value in _parameters(payload, index))
    )


def _parameters(payload: Payload, index: int) -> Iterator[tuple[str, Any]]:
    yield "Steps", payload.steps
    yield "Sampler", payload.sampler_name
    yield "Schedule type", payload.scheduler
    yield "CFG scale", payload.cfg_scale
    yield "Seed", payload.seeds[index]
    yield "Size", f"{payload.width}x{payload.height}"
    if payload.clip_skip > 1:
        yield "Clip skip", payload.clip_skip
    if payload.subseed_strength:
        yield "Variation seed", payload.subseeds[index]
        yield "Variation seed strength", payload.subseed_strength
    if payload.hires is not None:
        yield "Denoising strength", payload.hires.denoising_strength
        yield "Hires resize", f"{payload.hires.width}x{payload.hires.height}"
        yield "Hires steps", payload.hires.steps
        yield "Hires upscaler", payload.hires.upscaler
        if (payload.hires.sampler_name, payload.hires.scheduler) != (payload.sampler_name, payload.scheduler):
            yield "Hires sampler", payload.hires.sampler_name
            yield "Hires schedule type", payload.hires.scheduler
        for name, words in (("prompt", payload.hires.prompts), ("negative prompt", payload.hires.negative_prompts)):
            if words:
                yield f"Hires {name}", words[index]
        if payload.hires.cfg_scale != payload.cfg_scale:
            yield "Hires CFG Scale", payload.hires.cfg_scale
    if payload.eta_noise_seed_delta:
        yield "ENSD", payload.eta_noise_seed_delta
    if payload.emphasis != "Original":
        yield "Emphasis", payload.emphasis
    yield "RNG", payload.rng.upper()


def is_infotext(text: str) -> bool:
    """Whether a text ends with the parameters of a picture."""
    return bool(_PARAMETERS.match(_without_template(text).strip().rpartition("\n")[2]))


def split_infotexts(text: str) -> list[str]:
    """The texts of several pictures, each of which ends with the parameters of one; none where there are none.

    >>> split_infotexts("a ring\\nSteps: 20, Seed: 1\\n\\na disc\\nSteps: 9, Seed: 2\\n")
    ['a ring\\nSteps: 20, Seed: 1', 'a disc\\nSteps: 9, Seed: 2']
    """
    ends = [found.end() for found in _PARAMETERS.finditer(text)]
    return [text[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]


def _without_template(text: str) -> str:
    """A text without what wildcard extensions put behind the parameters: the prompt before it was drawn."""
    last = next(reversed(list(_PARAMETERS.finditer(text))), None)
    return text[: last.end()] if last and _TEMPLATE.fullmatch(text, last.end()) else text


def read_infotext(text: str) -> dict[str, Any]:
    """The fields of a payload that draws such a picture.

    Raises:
        ConfigError: a parameter that is unknown or cannot be read.
    """
    fields, others = split_infotext(text)
    for name in others:
        raise ConfigError(f"unknown parameter '{printable(name)}'; {nearest(name, _READ)}")
    return fields


def split_infotext(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a payload that draws such a picture, and the parameters that no payload has, such as extensions'.

    Web UIs do not write which noise they take where it is their default, CUDA's.

    Raises:
        ConfigError: a parameter that cannot be read.
    """
    words, _, parameters = _without_template(text).strip().rpartition("\n")
    prompt, _, negative = f"\n{words}".partition(f"\n{_NEGATIVE}")
    fields: dict[str, Any] = {"prompt": prompt.strip(), "negative_prompt": negative.strip(), "rng": "nv"}
    others: dict[str, str] = {}
    for name, value in _values(parameters):
        try:
            if name in _SIZES:
                fields |= zip(_SIZES[name], map(_whole, re.split("[x×]", value)), strict=True)
            elif name in _READ:
                field, kind = _READ[name]
                fields[field] = _AS[kind](value)
            elif not name.startswith(_OF_THE_MODEL):
                others[name] = value
        except (ValueError, OverflowError):
            raise ConfigError(f"{name}: '{printable(value)}' is no such number") from None
    _read_old_second_pass(fields, [fields.pop(name, 0) for name in _SIZES["First pass size"]])
    if fields.keys() & {"hr_scale", "hr_resize_x", "hr_upscaler"}:
        fields["enable_hr"] = True
    return with_hashes_drawn(fields), others


def _read_old_second_pass(fields: dict[str, Any], first: Sequence[int]) -> None:
    """What web UIs wrote until 2023 of a second pass: the size of the first one, and latents that are enlarged."""
    if all(first):
        fields |= {"hr_resize_x": fields.get("width", 512), "hr_resize_y": fields.get("height", 512)}
        fields["width"], fields["height"] = first


def _decimal(value: str) -> float:
    return float(value.replace(",", "."))


def _whole(value: str) -> int:
    return int(re.sub(r"\.0*\Z", "", value))


_AS: Mapping[type, Callable[[str], Any]] = {str: str, int: _whole, float: _decimal}


def _values(parameters: str) -> Iterator[tuple[str, str]]:
    """The parameters of the last line and their values, which are JSON where they hold a comma."""
    at = 0
    while name := _NAME.search(parameters, at):  # what lies before it, between commas, has no name
        at = name.end()
        if parameters[at : at + 1] in ("[", "{"):  # Civitai's, in no quotes
            try:
                _, at = json.JSONDecoder().raw_decode(parameters, at)
                yield name[1], parameters[name.end() : at]
                continue
            except (ValueError, RecursionError):
                pass
        value = _VALUE.match(parameters, at)
        assert value is not None
        at = value.end()
        yield name[1], _unquoted(value[0].strip())


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",:\n") else text
