"""The kind of a model file, from its keys and shapes; also the many kinds that are not mergeable checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bayes_merger.checkpoints.activations.names import MARK
from bayes_merger.checkpoints.networks import Shapes, TensorNames, network_of


@dataclass(frozen=True)
class ModelKind:
    """The kind of a model file.

    Attributes:
        name: short and unique, an architecture's name for whole checkpoints (``sd1``, ``sdxl``, ``lora``, ...).
        words: for users, with an article: ``a LoRA``.
        way_out: what to do instead of merging it as it is, empty when there is nothing to do.
        architecture: the architecture whose table it has, where that is called otherwise: models of one architecture
            and of different kinds are not merged with each other.
    """

    name: str
    words: str
    way_out: str = ""
    architecture: str = ""


_WHOLE = "give a whole checkpoint in one file"

SD1 = ModelKind("sd1", "a Stable Diffusion 1.x checkpoint")
SD2 = ModelKind("sd2", "a Stable Diffusion 2.x checkpoint")
SDXL = ModelKind("sdxl", "a Stable Diffusion XL checkpoint")
SSD_1B = ModelKind("ssd-1b", "SSD-1B, a cut-down Stable Diffusion XL", architecture="sdxl")
VEGA = ModelKind("segmind-vega", "Segmind Vega, a cut-down Stable Diffusion XL", architecture="sdxl")
KOALA = ModelKind("koala", "KOALA, a cut-down Stable Diffusion XL")
REFINER = ModelKind("sdxl-refiner", "a Stable Diffusion XL refiner")
SD3 = ModelKind("sd3", "a Stable Diffusion 3 checkpoint")
SD35_MEDIUM = ModelKind("sd3.5-medium", "a Stable Diffusion 3.5 medium checkpoint", architecture="sd3")
SD35_LARGE = ModelKind("sd3-large", "a Stable Diffusion 3.5 large checkpoint")
FLUX = ModelKind("flux", "a Flux checkpoint")
FLUX_LITE = ModelKind("flux-lite", "Flux lite or Flex.1, a cut-down Flux")
CHROMA = ModelKind("chroma", "a Chroma checkpoint")
LORA = ModelKind("lora", "a LoRA", "give the checkpoint that it is for as model A, and the LoRA as model B or C")
ACTIVATIONS = ModelKind(
    "activations", "a file of activations", "give it as  saliency.b=FILE  and the model that it was measured on"
)
CONTROLNET = ModelKind("controlnet", "a ControlNet", _WHOLE)
IP_ADAPTER = ModelKind("ip-adapter", "an IP-Adapter", _WHOLE)
MOTION = ModelKind("motion", "an AnimateDiff motion module", _WHOLE)
EMBEDDING = ModelKind("embedding", "a textual inversion embedding", _WHOLE)
UPSCALER = ModelKind("upscaler", "an upscaler", _WHOLE)
VAE = ModelKind("vae", "a VAE alone", _WHOLE)
TEXT_ENCODER = ModelKind("text-encoder", "a text encoder alone", _WHOLE)
DIFFUSERS = ModelKind(
    "diffusers", "one part of a model in diffusers form", "give the diffusers folder that it belongs to"
)
BROKEN_UNET = ModelKind(
    "partial",
    "a checkpoint with parts of its U-Net missing",
    "download or export it again; if it is a cut-down network, it cannot be merged",
)
AVERAGES = ModelKind(
    "averages", "a checkpoint whose U-Net is there as averages over training only", "give the file that has both"
)
FIRST_LORA = ModelKind("first-lora", "a LoRA in the form of its first trainer, cloneofsimo's", "convert it to kohya's")
UNKNOWN = ModelKind("unknown", "a model this program does not know", _WHOLE)


def detect_kind(shapes: Shapes) -> ModelKind:
    """The kind of model that has these names and shapes."""
    names = TensorNames(shapes)
    for kind, looks_like in _ADAPTERS:
        if looks_like(names):
            return kind
    if title := network_of(names):
        return _titled(title)
    return next((kind for kind, looks_like in _SIGNS if looks_like(names)), UNKNOWN)


def _titled(title: str, way_out: str = "") -> ModelKind:
    """The kind that is only known by its title."""
    return ModelKind(title.lower().removeprefix("a ").replace(" ", "-"), title, way_out)


def describe_input(shapes: Shapes) -> str:
    """What the number of input channels says about a network: ``inpainting``, ``pix2pix``, ... or nothing."""
    bare = TensorNames(shapes).bare
    unet, flux = bare.get("input_blocks.0.0.weight", ()), bare.get("img_in.weight", ())
    if len(flux) == 2:
        return {384: "inpainting (Flux Fill)", 128: "edges or depth (Flux Control)"}.get(flux[1], "")
    return {9: "inpainting", 8: "pix2pix", 5: "depth"}.get(unet[1] if len(unet) == 4 else 0, "")


def _unet(names: TensorNames) -> bool:
    return names.has_any(("input_blocks", "middle_block", "output_blocks"))


def _two_sided(names: TensorNames, count: int) -> bool:
    """Whether all ``count`` input and output blocks of a U-Net are there, and nothing beyond."""
    wanted = set(range(count))
    return (
        names.numbers_after("input_blocks") == wanted
        and names.numbers_after("output_blocks") == wanted
        and "middle_block + time_embed + out" in names
    )


def _depths(names: TensorNames, blocks: tuple[int, ...]) -> tuple[int, ...]:
    """How many transformers the input blocks with these numbers have."""
    return tuple(len(names.numbers_after(f"input_blocks.{block}.1.transformer_blocks")) for block in blocks)


def _is_lora(names: TensorNames) -> bool:
    parts = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", "_lora.down.", ".lora_linear_layer.",
             ".hada_w", ".lokr_w", ".oft_", ".boft_", ".ia3_l", "_lora1.", "_lora2.")  # fmt: skip
    ends = (".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight", ".dora_scale", ".on_input", ".a1.weight",
            ".lora_A", ".lora_B")  # fmt: skip
    return names.starts_with("lora_", "lycoris_", "oft_") or any(
        key.endswith(ends) or any(part in key for part in parts) for key in names.shapes
    )


def _is_sd2(names: TensorNames) -> bool:
    """SD2 has SD1's names; its text encoder is OpenCLIP's, its cross-attention 1024 wide, its projections linear."""
    if not _unet(names):
        return False
    if names.starts_with("cond_stage_model.model."):
        return True
    if any(key.endswith("attn2.to_k.weight") and shape[-1:] == (1024,) for key, shape in names.bare.items()):
        return True
    linear = len(names.bare.get("input_blocks.1.1.proj_in.weight", ())) == 2
    of_sd1 = names.starts_with("cond_stage_model.transformer.")
    return not of_sd1 and (linear or names.starts_with("conditioner.embedders.0.model."))


def _is_sdxl(names: TensorNames) -> bool:
    return _unet(names) and (names.starts_with("conditioner.embedders.") or "label_emb" in names)


def _attends_at_once(names: TensorNames) -> bool:
    """Whether the first block has attention, as in SD1 and SD2, and not in the models of the XL family."""
    return "input_blocks.1.1.transformer_blocks" in names


def _is_refiner(names: TensorNames) -> bool:
    """The refiner is an XL in four levels whose only text encoder is OpenCLIP's."""
    alone = names.starts_with("conditioner.embedders.0.model.") and not names.starts_with("conditioner.embedders.1.")
    return not _attends_at_once(names) and (alone or ("label_emb" in names and _depths(names, (4, 8)) == (4, 4)))


def _is_koala(names: TensorNames) -> bool:
    return _is_sdxl(names) and names.numbers_after("output_blocks") == set(range(6))


def _is_flux_lite(names: TensorNames) -> bool:
    return names.numbers_after("double_blocks") == set(range(8)) and names.numbers_after("single_blocks") == set(
        range(38)
    )


def _is_diffusers(names: TensorNames) -> bool:
    return names.has_any(("down_blocks", "up_blocks", "mid_block", "transformer_blocks"))


def _is_upscaler(names: TensorNames) -> bool:
    return names.starts_with("params_ema.", "RRDB_trunk", "body.0.rdb", "model.1.sub.", "model.0.weight")


_Sign = Callable[[TensorNames], bool]

# What stands beside a model, by a part of it that nothing else has.
_BESIDE = {
    "PhotoMaker": ("fuse_module", "id_encoder"),
    "PuLID": ("id_adapter", "pulid_ca"),
    "ELLA": ("connector.resblocks",),
    "a T2I-Adapter": ("body.0.block1", "body.0.in_conv", "body.0.resnets", "adapter.body"),
    "a CLIP vision encoder": ("vision_model", "visual"),
    "a language model": ("layers.0.self_attn",),
    "a tiny VAE (TAESD)": ("taesd_encoder", "taesd_decoder", "decoder.layers"),
    "a hypernetwork": ("768.0", "320.0"),
}

# An adapter may carry the names of the model that it adapts.
_ADAPTERS: tuple[tuple[ModelKind, _Sign], ...] = (
    (ACTIVATIONS, lambda n: any(key.endswith((f"{MARK}in_sq", f"{MARK}guided_out")) for key in n.shapes)),
    (
        CONTROLNET,
        lambda n: n.starts_with("control_model.", "controlnet_", "zero_convs.", "input_hint_block.", "lllite_"),
    ),
    (LORA, _is_lora),
    (MOTION, lambda n: "*motion_modules" in n),
    (IP_ADAPTER, lambda n: n.has_any(("ip_adapter", "image_proj", "*to_k_ip")) or n.starts_with("ip_adapter")),
)
# In this order: a whole model carries the names of its parts.
_SIGNS: tuple[tuple[ModelKind, _Sign], ...] = (
    (SD35_LARGE, lambda n: "joint_blocks.24" in n),
    (SD35_MEDIUM, lambda n: "joint_blocks.0.x_block.attn2" in n),
    (SD3, lambda n: "joint_blocks" in n),
    (CHROMA, lambda n: "double_blocks + single_blocks + distilled_guidance_layer" in n),
    (FLUX_LITE, _is_flux_lite),
    (FLUX, lambda n: "double_blocks + single_blocks" in n),
    (REFINER, _is_refiner),
    (SSD_1B, lambda n: _is_sdxl(n) and _depths(n, (4, 5, 7, 8)) == (2, 2, 4, 4)),
    (VEGA, lambda n: _is_sdxl(n) and _depths(n, (4, 5, 7, 8)) == (1, 1, 2, 2)),
    (KOALA, _is_koala),
    (SDXL, lambda n: _is_sdxl(n) and not _attends_at_once(n)),
    (SD2, _is_sd2),
    (SD1, lambda n: _two_sided(n, 12)),
    (BROKEN_UNET, _unet),
    (AVERAGES, lambda n: n.starts_with("model_ema.diffusion_model")),
    (FIRST_LORA, lambda n: n.starts_with("unet:0:", "text_encoder:0:")),
    (DIFFUSERS, _is_diffusers),
    (VAE, lambda n: n.starts_with("first_stage_model.", "encoder.down", "decoder.up", "vae.")),
    (
        TEXT_ENCODER,
        lambda n: n.starts_with(
            "cond_stage_model.", "text_model.", "text_encoders.", "encoder.block.", "transformer.resblocks."
        ),
    ),
    (
        EMBEDDING,
        lambda n: n.starts_with("*") or n.has_any(("emb_params", "emp_params", "clip_l", "clip_g", "*string_to_param")),
    ),
    (UPSCALER, _is_upscaler),
    *((_titled(title, _WHOLE), partial(TensorNames.has_any, signs=signs)) for title, signs in _BESIDE.items()),
)
