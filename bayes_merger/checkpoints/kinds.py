"""The kind of a model file, from its keys and shapes; also the many kinds that are not mergeable checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelKind:
    """The kind of a model file.

    Attributes:
        name: short and unique, an architecture's name for whole checkpoints (``sd1``, ``sdxl``, ``lora``, ...).
        words: for users, with an article: ``a LoRA``.
        way_out: what to do instead of merging it as it is, empty when there is nothing to do.
    """

    name: str
    words: str
    way_out: str = ""


_UNET = "model.diffusion_model."
_WHOLE = "give a whole checkpoint in one file"

SD1 = ModelKind("sd1", "a Stable Diffusion 1.x checkpoint")
SD2 = ModelKind("sd2", "a Stable Diffusion 2.x checkpoint")
SDXL = ModelKind("sdxl", "a Stable Diffusion XL checkpoint")
REFINER = ModelKind("sdxl-refiner", "a Stable Diffusion XL refiner")
SD3 = ModelKind("sd3", "a Stable Diffusion 3 checkpoint")
FLUX = ModelKind("flux", "a Flux checkpoint")
LORA = ModelKind("lora", "a LoRA", "give the checkpoint that it is for as model A, and the LoRA as model B or C")
CONTROLNET = ModelKind("controlnet", "a ControlNet", _WHOLE)
MOTION = ModelKind("motion", "an AnimateDiff motion module", _WHOLE)
EMBEDDING = ModelKind("embedding", "a textual inversion embedding", _WHOLE)
UPSCALER = ModelKind("upscaler", "an upscaler", _WHOLE)
VAE = ModelKind("vae", "a VAE alone", _WHOLE)
TEXT_ENCODER = ModelKind("text-encoder", "a text encoder alone", _WHOLE)
DIFFUSERS = ModelKind(
    "diffusers", "one part of a model in diffusers form", "give the diffusers folder that it belongs to"
)
BARE_UNET = ModelKind("unet", "a U-Net without its prefix", "give the whole checkpoint with its text encoder and VAE")
BROKEN_UNET = ModelKind("partial", "a checkpoint with parts of its U-Net missing", "download or export it again")
UNKNOWN = ModelKind("unknown", "a model this program does not know", _WHOLE)


def detect_kind(shapes: Shapes) -> ModelKind:
    """The kind of model that has these names and shapes."""
    for kind, looks_like in _SIGNS:
        if looks_like(shapes):
            return kind
    return UNKNOWN


def describe_input(shapes: Shapes) -> str:
    """What the number of input channels says about a U-Net: ``inpainting``, ``pix2pix`` or nothing."""
    first = shapes.get(_UNET + "input_blocks.0.0.weight", ())
    return {9: "inpainting", 8: "pix2pix", 5: "depth"}.get(first[1] if len(first) == 4 else 0, "")


def _starts(shapes: Shapes, *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in shapes)


def _contains(shapes: Shapes, *parts: str) -> bool:
    return any(part in key for key in shapes for part in parts)


def _ldm_unet(shapes: Shapes) -> bool:
    return _starts(shapes, _UNET + "input_blocks.", _UNET + "middle_block.", _UNET + "output_blocks.")


def _numbers(shapes: Shapes, prefix: str) -> set[int]:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return {int(found[1]) for key in shapes if (found := pattern.match(key))}


def _two_sided(shapes: Shapes, count: int) -> bool:
    """Whether all ``count`` input and output blocks of an LDM U-Net are there, and nothing beyond."""
    wanted = set(range(count))
    return (
        _numbers(shapes, _UNET + "input_blocks.") == wanted
        and _numbers(shapes, _UNET + "output_blocks.") == wanted
        and _starts(shapes, _UNET + "middle_block.")
        and _starts(shapes, _UNET + "time_embed.")
        and _starts(shapes, _UNET + "out.")
    )


def _is_lora(shapes: Shapes) -> bool:
    parts = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", "_lora.down.", ".lora_linear_layer.",
             ".hada_w", ".lokr_w", ".oft_", ".boft_", ".ia3_l", "_lora1.", "_lora2.")  # fmt: skip
    ends = (".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight", ".dora_scale", ".on_input", ".a1.weight",
            ".lora_A", ".lora_B")  # fmt: skip
    starts = ("lora_", "lycoris_", "oft_")
    return _starts(shapes, *starts) or _contains(shapes, *parts) or any(k.endswith(ends) for k in shapes)


def _is_sd2(shapes: Shapes) -> bool:
    """SD2 has SD1's names; its text encoder is OpenCLIP's and its cross-attention 1024 wide."""
    if not _ldm_unet(shapes) or _starts(shapes, "conditioner."):
        return False
    wide = any(k.startswith(_UNET) and k.endswith("attn2.to_k.weight") and s[-1:] == (1024,) for k, s in shapes.items())
    return wide or _starts(shapes, "cond_stage_model.model.")


def _is_refiner(shapes: Shapes) -> bool:
    return _starts(shapes, "conditioner.embedders.0.model.") and not _starts(shapes, "conditioner.embedders.1.")


def _is_sdxl(shapes: Shapes) -> bool:
    return _ldm_unet(shapes) and (_starts(shapes, "conditioner.embedders.") or _starts(shapes, _UNET + "label_emb."))


def _is_diffusers(shapes: Shapes) -> bool:
    return _starts(shapes, "down_blocks.", "up_blocks.", "mid_block.", "encoder.down_blocks.", "transformer_blocks.")


def _is_upscaler(shapes: Shapes) -> bool:
    return _starts(shapes, "params_ema.", "RRDB_trunk", "body.0.rdb", "model.1.sub.") or "model.0.weight" in shapes


# In this order: an adapter may carry names of the model it adapts, and a whole model those of its parts.
_SIGNS: tuple[tuple[ModelKind, Callable[[Shapes], bool]], ...] = (
    (LORA, _is_lora),
    (CONTROLNET, lambda s: _starts(s, "control_model.", "controlnet_", "zero_convs.", "input_hint_block.")),
    (MOTION, lambda s: _contains(s, "motion_modules.")),
    (SD3, lambda s: _contains(s, "joint_blocks.")),
    (FLUX, lambda s: _contains(s, "double_blocks.") and _contains(s, "single_blocks.")),
    (REFINER, _is_refiner),
    (SDXL, _is_sdxl),
    (SD2, _is_sd2),
    (SD1, lambda s: _two_sided(s, 12)),
    (BROKEN_UNET, _ldm_unet),
    (DIFFUSERS, _is_diffusers),
    (BARE_UNET, lambda s: _starts(s, "input_blocks.", "diffusion_model.input_blocks.", "output_blocks.")),
    (VAE, lambda s: _starts(s, "first_stage_model.", "encoder.down.", "decoder.up.", "vae.")),
    (TEXT_ENCODER, lambda s: _starts(s, "cond_stage_model.", "text_model.", "text_encoders.", "encoder.block.")),
    (EMBEDDING, lambda s: bool({"emb_params", "clip_l", "clip_g"} & set(s)) or _contains(s, "string_to_param")),
    (UPSCALER, _is_upscaler),
)
