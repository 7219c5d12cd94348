"""`<lora:NAME:0.8>` in a prompt: networks that change the model for the pictures whose prompt names them.

As in AUTOMATIC1111's web UI, the strength of the text encoder comes first, and the network's own is the same unless it
is given: `<lora:fur:0.8>`, `<lora:fur:0:1>`, `<lora:fur:te=0:unet=1>`. The tag itself is no part of the words.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bayes_merger.errors import ConfigError, printable

_TAG = re.compile(r"<(\w+):([^>]+)>")
_KINDS = ("lora", "lyco")
_MOST = 100  # times; beyond this it is a slip of the keyboard


@dataclass(frozen=True)
class NetworkTag:
    """A LoRA that a prompt names.

    Attributes:
        name: of its file, without the suffix.
        text: strength in the text encoders.
        unet: strength in the network.
    """

    name: str
    text: float
    unet: float


def without_tags(prompt: str) -> str:
    """The words of a prompt."""
    return _TAG.sub("", prompt)


def network_tags(prompt: str) -> tuple[NetworkTag, ...]:
    """The LoRAs that a prompt names, in its order; those of strength 0 are left out.

    Raises:
        ConfigError: another kind of network, a strength that is no number, or a LoRA that is named twice.
    """
    tags = [_tag(found[0], found[1], found[2]) for found in _TAG.finditer(prompt)]
    names = [tag.name for tag in tags]
    if doubled := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"prompt: <lora:{printable(doubled)}:...> is there twice; write one, with the sum of both")
    return tuple(tag for tag in tags if tag.text or tag.unet)


def _tag(written: str, kind: str, inside: str) -> NetworkTag:
    shown = printable(written, longest=100)
    if kind.lower() not in _KINDS:
        raise ConfigError(f"prompt: {shown} calls a network of a kind that is not supported; only <lora:NAME:1> is")
    name, *rest = (part.strip() for part in inside.split(":"))
    named = dict(part.split("=", 1) for part in rest if "=" in part)
    if more := sorted(set(named) - {"te", "unet"}):
        raise ConfigError(f"prompt: {shown}: '{printable(more[0])}=' is not supported; te= and unet= are")
    plain = [part for part in rest if "=" not in part]
    if not name or len(plain) > 2:
        raise ConfigError(f"prompt: {shown} is not understood; write <lora:NAME:1>, or <lora:NAME:te=0.5:unet=1>")
    given = dict(zip(("te", "unet"), plain, strict=False)) | named
    text = _strength(given.get("te", "1"), shown)
    return NetworkTag(name, text, _strength(given["unet"], shown) if "unet" in given else text)


def _strength(written: str, tag: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MOST:
        raise ConfigError(f"prompt: {tag}: '{printable(written)}' is no strength; write one like 0.8")
    return value
