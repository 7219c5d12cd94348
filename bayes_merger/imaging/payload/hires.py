"""A second, larger pass over a picture: A1111's "Hires. fix".

The size and the count of steps follow `StableDiffusionProcessingTxt2Img` in
https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/processing.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.values import checked
from bayes_merger.imaging.pipelines.schedulers import check_sampler
from bayes_merger.imaging.prompts.prompt import check_prompt

LATENT = "Latent"
UPSCALERS: Mapping[str, Mapping[str, Any] | None] = {
    LATENT: {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest"},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
    "Lanczos": None,
}
"""Upscaler -> how the latents are interpolated; None enlarges the picture itself."""

_OTHER_NAMES = {"none": "Lanczos", "latent (bilinear)": LATENT}  # without an upscaler, A1111 resizes with Lanczos
_SAME = ("", "Use same sampler", "Use same scheduler")
_OPT_F = 8  # pixels of a picture per number of its latents


@dataclass(frozen=True)
class Hires:
    """How a picture is drawn a second time.

    Attributes:
        width: of the final picture, in pixels.
        height: likewise.
        scaled_width: what the first picture is enlarged to, before what is too much is cut off.
        scaled_height: likewise.
        steps: of the second pass, all of which are drawn.
        denoising_strength: how much of the noise is put back, 0 to 1.
        upscaler: one of `UPSCALERS`.
        sampler_name: of the second pass.
        scheduler: likewise.
        cfg_scale: likewise.
        prompt: of the second pass; empty is that of the first.
        negative_prompt: likewise.
        prompts: after `resolve`, one per picture.
        negative_prompts: after `resolve`, one per picture.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    steps: int
    denoising_strength: float
    upscaler: str
    sampler_name: str
    scheduler: str
    cfg_scale: float
    prompt: str = ""
    negative_prompt: str = ""
    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any], count: int) -> Hires:
        """The second pass of a payload that `Payload.to_json` wrote, of so many pictures.

        Raises:
            ConfigError: it is none.
        """
        read: dict[str, Any] = {name: checked(field, data[name]) for name, field in _STORED.items()}
        words: dict[str, Any] = {name: tuple(data[name]) for name in ("prompts", "negative_prompts")}
        for texts in words.values():
            if texts and len(texts) != count:
                raise ConfigError("its second pass does not have as many prompts as pictures")
            for text in texts:
                checked("prompt", text)
        if not read["denoising_strength"] or not read["steps"] or read["upscaler"] not in UPSCALERS:
            raise ConfigError("its second pass draws nothing")
        return cls(**read, **words)

    @property
    def schedule_steps(self) -> int:
        """Steps of the whole schedule, of which only the last ones are drawn.

        Web UIs draw as many steps as were asked for, whatever the strength.
        """
        return int(self.steps / min(self.denoising_strength, 0.999))


_STORED = {
    "width": "width", "height": "height", "scaled_width": "width", "scaled_height": "height",
    "steps": "hr_second_pass_steps", "denoising_strength": "denoising_strength", "upscaler": "hr_upscaler",
    "sampler_name": "hr_sampler_name", "scheduler": "hr_scheduler", "cfg_scale": "hr_cfg",
    "prompt": "hr_prompt", "negative_prompt": "hr_negative_prompt",
}  # fmt: skip
"""Attribute -> the field of a payload file that has the same range."""


def hires_of(fields: Mapping[str, Any], first: Mapping[str, Any]) -> Hires:
    """The second pass that a payload's fields ask for.

    Args:
        fields: those that begin with `hr_`, and `denoising_strength`, each in its type.
        first: `width`, `height`, `steps`, `cfg_scale`, `sampler_name` and `scheduler` of the first pass, as given.

    Raises:
        ConfigError: an upscaler or a sampler that is not there, or a size that no model draws.
    """
    strength = fields.get("denoising_strength", 0.75)
    if not strength:
        raise ConfigError("denoising_strength: 0 draws nothing in the second pass; give more, or enable_hr: false")
    scaled, size = _sizes(fields, first["width"], first["height"])
    if min(size) < _OPT_F:
        raise ConfigError(f"hr_scale: the second pass would be {size[0]}x{size[1]} pixels; give more")
    named, scheduler = (fields.get(name, "") for name in ("hr_sampler_name", "hr_scheduler"))
    sampler = check_sampler(
        first["sampler_name"] if named in _SAME else named, first["scheduler"] if scheduler in _SAME else scheduler
    )
    check_prompt(fields.get("hr_prompt", ""))
    check_prompt(fields.get("hr_negative_prompt", ""), negative=True)
    return Hires(
        width=size[0],
        height=size[1],
        scaled_width=scaled[0],
        scaled_height=scaled[1],
        steps=fields.get("hr_second_pass_steps", 0) or first["steps"],
        denoising_strength=strength,
        upscaler=_upscaler(fields.get("hr_upscaler", LATENT)),
        sampler_name=sampler[0],
        scheduler=sampler[1],
        cfg_scale=fields.get("hr_cfg", first["cfg_scale"]),
        prompt=fields.get("hr_prompt", ""),
        negative_prompt=fields.get("hr_negative_prompt", ""),
    )


def _sizes(fields: Mapping[str, Any], width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the picture is enlarged to and what is kept of it, in whole latents."""
    to_width, to_height = fields.get("hr_resize_x", 0), fields.get("hr_resize_y", 0)
    if not (to_width or to_height):
        scale = fields.get("hr_scale", 2.0)
        scaled = size = (int(width * scale), int(height * scale))
    elif not to_height or (to_width and width * to_height < to_width * height):  # the picture is as wide as asked for
        scaled = (to_width, to_width * height // width)
        size = (to_width, to_height or scaled[1])
    else:
        scaled = (to_height * width // height, to_height)
        size = (to_width or scaled[0], to_height)
    return tuple(side // _OPT_F * _OPT_F for side in scaled), tuple(side // _OPT_F * _OPT_F for side in size)  # type: ignore[return-value]


def _upscaler(name: str) -> str:
    known = {upscaler.lower(): upscaler for upscaler in UPSCALERS} | _OTHER_NAMES
    if name.lower() not in known:
        raise ConfigError(
            f"hr_upscaler: '{printable(name, longest=60)}' is a network of its own, which is not supported; "
            f"the nearest is Lanczos; {nearest(name, UPSCALERS)}"
        )
    return known[name.lower()]
