"""What programs other than A1111 and ComfyUI write about their pictures -> the fields of a payload.

InvokeAI, SwarmUI, Fooocus, NovelAI, Easy Diffusion, Draw Things and Civitai each have names of their own for the same
few things, some inside another table.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from bayes_merger.imaging.payload.fields import is_field
from bayes_merger.imaging.payload.values import FIELDS, LONGEST_PROMPT

_INSIDE = ("sui_image_params", "meta", "parameters", "image")
"""Tables that hold what is looked for: SwarmUI's, Civitai's, A1111's in its answers, and InvokeAI's of 2022."""

_NAMES: Mapping[str, str] = {
    **{name.replace("_", ""): name for name in FIELDS},
    "positiveprompt": "prompt", "positiveconditioning": "prompt", "c": "prompt",
    "uc": "negative_prompt", "nprompt": "negative_prompt", "negativeconditioning": "negative_prompt",
    "numinferencesteps": "steps", "guidancescale": "cfg_scale", "scale": "cfg_scale", "sampler": "sampler_name",
    "noiseschedule": "scheduler", "numoutputs": "batch_size", "nsamples": "batch_size",
}  # fmt: skip
"""A name in small letters, without spaces and `_` -> the field."""

_SIZES = ("size", "resolution")
_INVOKE = ("positive_prompt", "positive_conditioning")
_OF_FOOOCUS = re.compile(r"LoRA \d+", re.IGNORECASE)
_DREAM = {"-s": "steps", "-S": "seed", "-W": "width", "-H": "height", "-C": "cfg_scale", "-A": "sampler_name"}


def unwrapped(data: Any) -> Any:
    """The table or text about a picture, where it is inside another one."""
    if isinstance(data, Mapping) and "prompt" not in data:
        return next((data[name] for name in _INSIDE if isinstance(data.get(name), Mapping | str)), data)
    return data


def fields_of(data: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a payload in a table about a picture, and the names that are none."""
    fields: dict[str, Any] = {}
    others: list[str] = []
    tags, of_networks = _networks(data)
    for name, value in data.items():
        field = _NAMES.get(re.sub(r"[\s_]", "", str(name)).lower(), str(name) if is_field(str(name)) else "")
        if field:
            fields.setdefault(field, value)
        elif str(name).lower() in _SIZES and (sides := list(_sides(value))):
            fields["width"], fields["height"] = sides
        elif name not in of_networks:
            others.append(str(name))
    if data.keys() & {*_INVOKE}:
        _read_as_invoke(fields)
    if isinstance(fields.get("clip_skip"), bool):  # Easy Diffusion's
        fields["clip_skip"] = 1 + fields["clip_skip"]
    if isinstance(prompt := fields.get("prompt"), list):  # InvokeAI's of 2022
        fields |= _both_sides(", ".join(str(one.get("prompt")) for one in prompt if isinstance(one, Mapping)))
    if tags and isinstance(prompt := fields.get("prompt"), str) and "<lora:" not in prompt:
        fields["prompt"] = prompt + "".join(f" <lora:{name}:{weight}>" for name, weight in tags)
    return fields, others


def _read_as_invoke(fields: dict[str, Any]) -> None:
    if "sampler_name" not in fields and "scheduler" in fields:
        fields["sampler_name"] = re.sub("_k$", "_ka", str(fields.pop("scheduler")))
    if isinstance(fields.get("clip_skip"), int):
        fields["clip_skip"] += 1  # layers that are left out


def _networks(data: Mapping[Any, Any]) -> tuple[list[tuple[str, Any]], set[str]]:
    """The LoRAs of a picture and their weights, and the names in the table that say so."""
    found: list[tuple[Any, Any]] = []
    for model in data["loras"] if isinstance(data.get("loras"), list) else ():
        about = model if isinstance(model, Mapping) else {}
        file: Mapping[str, Any] = next(
            (about[key] for key in ("model", "lora") if isinstance(about.get(key), Mapping)), {}
        )
        found.append((file.get("name") or file.get("model_name") or about.get("file"), about.get("weight")))
    for names, weights in (("loras", "loraweights"), ("use_lora_model", "lora_alpha")):
        pair = [value if isinstance(value, list) else [value] for value in (data.get(names), data.get(weights))]
        found += zip(*pair, strict=False)
    fooocus = {name: str(value).rpartition(" : ") for name, value in data.items() if _OF_FOOOCUS.fullmatch(str(name))}
    found += [(name, weight) for name, _, weight in fooocus.values()]
    tags = [(_stem(name), weight) for name, weight in found if isinstance(name, str) and name and _is_number(weight)]
    return tags, {"loras", "loraweights", "use_lora_model", "lora_alpha", *fooocus} if tags else set()


def _stem(file: str) -> str:
    path = PurePosixPath(PureWindowsPath(file).as_posix())
    return path.name.removesuffix(".safetensors").removesuffix(".ckpt").removesuffix(".pt")


def _is_number(value: Any) -> bool:
    return bool(re.fullmatch(r"-?\d+(?:\.\d*)?", str(value)))


def fields_of_dream(text: str) -> dict[str, Any]:
    """The fields in a command of InvokeAI's ancestor: `"a cat" -s 50 -S 42 -W 512 -H 512 -C 7.5 -A k_lms`."""
    try:
        words = shlex.split(text[:LONGEST_PROMPT])
    except ValueError:
        return {}
    given = {_DREAM[word[:2]]: word[2:] or after for word, after in pairwise([*words, ""]) if word[:2] in _DREAM}
    return {**_both_sides(words[0]), **given} if len(given) > 1 else {}


def _both_sides(words: str) -> dict[str, str]:
    """A prompt with what it shall not show in square brackets."""
    unwanted = ", ".join(re.findall(r"\[([^\]]*)\]", words))
    wanted = re.sub(r"\s*\[[^\]]*\]", "", words).strip()
    return {"prompt": wanted, **({"negative_prompt": unwanted} if unwanted else {})}


def _sides(value: Any) -> Iterator[int]:
    """Width and height of `512x768`, `(512, 768)` or a list."""
    found = re.fullmatch(r"\D{0,2}(\d{1,5})\D{1,3}(\d{1,5})\D{0,2}", str(value))
    if found:
        yield from map(int, found.groups())
