"""The architectures that can be merged, as tables, and custom block tables.

What a model *is* follows from keys and shapes alone (``detect_kind``), also for kinds that have no table, so that
errors can name them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayes_merger.checkpoints.blocks import Architecture, Place, Rule
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.checkpoints.kinds import ModelKind, detect_kind
from bayes_merger.checkpoints.naming import FLUX_LAYERS, NETWORK, SD3_LAYERS
from bayes_merger.checkpoints.prediction import MARKS
from bayes_merger.errors import CheckpointError, ConfigError, and_more, nearest, printable

Shapes = Mapping[str, tuple[int, ...]]

OwnBlocks = tuple[tuple[str, tuple[str, ...]], ...]
"""A custom division into blocks: block -> the starts of its keys, in the order in which they are tried."""

# What every architecture shares. The twelve buffers of the noise schedule sit at the top level of LDM files.
_SPECIAL_RULES = (
    Rule(r".*\.position_ids$", role="position_ids"),
    Rule(r"model_ema\.", role="ema"),
    Rule(
        r"(?:betas|(?:sqrt_|sqrt_one_minus_|log_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(?:_prev)?"
        r"|posterior_(?:variance|log_variance_clipped|mean_coef1|mean_coef2))$",
        role="schedule",
    ),
    Rule(r"model\.model_sampling\.sigmas$|.*\.attn_mask$", role="schedule"),
    Rule(rf"(?:{'|'.join(map(re.escape, MARKS))})$", role="marker"),
)

_TEXT_ENCODERS = tuple(
    Rule(rf"(?:text_encoders\.)?(?={name}\.)", "BASE", slot=slot)
    for name, slot in (("clip_l", "CLIP_L"), ("clip_g", "CLIP_G"), ("t5xxl", "T5"))
)
_VAE = Rule(r"(?:first_stage_model|vae)\.", "BASE", role="vae", slot="VAE")
TEXT_SLOTS = ("TE", "CLIP_L", "CLIP_G", "T5")
"""The slots of the text encoders."""

_PREFIXED = re.compile(
    r"(?:model\.)?diffusion_model\.|model\.model\.|net\.|cond_stage_model\.|conditioner\.|text_encoders\."
)
_BARE = ("double_blocks.", "joint_blocks.", "input_blocks.")
_LEFTOVER = re.compile(r"embedding_manager\.|denoiser\.|__")  # of training

# The layers of a U-Net's block; transformers have theirs in ``naming``.
_UNET_LAYERS = (
    r"\d\.(?:in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection|op|conv|norm|proj_in|proj_out"
    r"|transformer_blocks\.\d+\.(?:norm[123]|attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2)))"
    r"\.(?:weight|bias)|\d\.(?:weight|bias)"
    r"|(?:time_embed\.(?:[02]\.(?:weight|bias)|cond_proj\.weight)|label_emb\.0\.[02]\.(?:weight|bias)"
    r"|out\.[02]\.(?:weight|bias))"
)


def _own(prefix: str, names: str, block: str, slot: str) -> Rule:
    """A slot: its name stays in the element, so that rules can say it."""
    return Rule(rf"{prefix}(?=(?:{names})(?:\.|$))", block, slot=slot)


def _numbered(*counts: tuple[str, int]) -> tuple[str, ...]:
    return tuple(f"{letters}{number:02d}" for letters, count in counts for number in range(count))


def _unet(count: int) -> tuple[str, ...]:
    """The blocks of a U-Net with ``count`` steps down and up."""
    return ("BASE", *_numbered(("IN", count)), "M00", *_numbered(("OUT", count)))


def _unet_rules(last_block: str) -> tuple[Rule, ...]:
    return (
        Rule(NETWORK + r"input_blocks\.(\d+)\.", "IN{:02d}"),
        Rule(NETWORK + r"middle_block\.", "M00"),
        Rule(NETWORK + r"output_blocks\.(\d+)\.", "OUT{:02d}"),
        _own(NETWORK, "time_embed", "BASE", "TIME"),
        _own(NETWORK, "label_emb", "BASE", "LABEL"),
        _own(NETWORK, "out", last_block, "OUT"),
        _VAE,
    )


SD1 = Architecture(
    name="sd1",
    blocks=_unet(12),
    rules=(*_SPECIAL_RULES, *_unet_rules("OUT11"), Rule(r"cond_stage_model\.", "BASE", slot="TE")),
    slots=("TIME", "OUT", "TE", "VAE"),
    title="Stable Diffusion 1.x",
    modelspec="stable-diffusion-v1",
    resolution=512,
    prediction="epsilon",
    layers=_UNET_LAYERS,
)

SD2 = Architecture(
    name="sd2",
    blocks=SD1.blocks,
    rules=(
        *SD1.rules,
        Rule(r"conditioner\.embedders\.0\.(?=model\.)", "BASE", slot="TE"),
        # the encoders of pictures of unCLIP and depth models stand where others have words
        Rule(r"(?=(?:embedder|noise_augmentor|depth_model)\.)", "BASE", slot="TE"),
    ),
    slots=("TIME", "LABEL", "OUT", "TE", "VAE"),
    title="Stable Diffusion 2.x",
    modelspec="stable-diffusion-v2",
    resolution=768,
    layers=_UNET_LAYERS,
)

SDXL = Architecture(
    name="sdxl",
    blocks=_unet(9),
    rules=(
        *_SPECIAL_RULES,
        *_unet_rules("OUT08"),
        # some files have them the other way round; OpenCLIP's is the one without ``transformer`` in front
        Rule(r"conditioner\.embedders\.(?:0\.(?!model\.)|1\.(?=transformer\.))", "BASE", slot="CLIP_L"),
        Rule(r"conditioner\.embedders\.(?:1\.(?!transformer\.)|0\.(?=model\.))", "BASE", slot="CLIP_G"),
    ),
    slots=("TIME", "LABEL", "OUT", "CLIP_L", "CLIP_G", "VAE"),
    title="Stable Diffusion XL",
    modelspec="stable-diffusion-xl-v1-base",
    resolution=1024,
    prediction="epsilon",
    layers=_UNET_LAYERS,
)


def _sd3(name: str, count: int, title: str, modelspec: str) -> Architecture:
    """One block per joint block, called IN as elsewhere; there is no middle block and no decoder."""
    blocks = ("BASE", *_numbered(("IN", count)))
    return Architecture(
        name=name,
        blocks=blocks,
        rules=(
            *_SPECIAL_RULES,
            Rule(NETWORK + r"joint_blocks\.(\d+)\.", "IN{:02d}"),
            _own(NETWORK, "t_embedder", "BASE", "TIME"),
            _own(NETWORK, "y_embedder", "BASE", "LABEL"),
            _own(NETWORK, "x_embedder|context_embedder|pos_embed", "BASE", "EMBED"),
            _own(NETWORK, "final_layer", blocks[-1], "OUT"),
            *_TEXT_ENCODERS,
            _VAE,
        ),
        slots=("TIME", "LABEL", "EMBED", "OUT", "CLIP_L", "CLIP_G", "T5", "VAE"),
        title=title,
        modelspec=modelspec,
        resolution=1024,
        layers=SD3_LAYERS,
    )


SD3 = _sd3("sd3", 24, "Stable Diffusion 3 medium", "stable-diffusion-v3-medium")
SD35_MEDIUM = _sd3("sd3", 24, "Stable Diffusion 3.5 medium", "stable-diffusion-v3.5-medium")
SD3_LARGE = _sd3("sd3-large", 38, "Stable Diffusion 3.5 large", "stable-diffusion-v3.5-large")

FLUX = Architecture(
    name="flux",
    blocks=("BASE", *_numbered(("D", 19), ("S", 38))),
    rules=(
        *_SPECIAL_RULES,
        Rule(NETWORK + r"double_blocks\.(\d+)\.", "D{:02d}"),
        Rule(NETWORK + r"single_blocks\.(\d+)\.", "S{:02d}"),
        _own(NETWORK, "time_in|guidance_in", "BASE", "TIME"),
        _own(NETWORK, "vector_in", "BASE", "LABEL"),
        _own(NETWORK, "img_in|txt_in", "BASE", "EMBED"),
        _own(NETWORK, "final_layer", "S37", "OUT"),
        *_TEXT_ENCODERS,
        _VAE,
    ),
    slots=("TIME", "LABEL", "EMBED", "OUT", "CLIP_L", "CLIP_G", "T5", "VAE"),
    title="Flux",
    modelspec="flux-1-dev",
    resolution=1024,
    layers=FLUX_LAYERS,
)

CHROMA = replace(
    FLUX,
    name="chroma",
    rules=(*FLUX.rules, _own(NETWORK, "distilled_guidance_layer", "BASE", "TIME")),
    slots=("TIME", "EMBED", "OUT", "T5", "VAE"),
    title="Chroma",
    modelspec="chroma",
    layers=FLUX_LAYERS + r"|distilled_guidance_layer\..+",
)

ARCHITECTURES: Mapping[str, Architecture] = {a.name: a for a in (SD1, SD2, SDXL, SD3, SD3_LARGE, FLUX, CHROMA)}
"""Name to architecture, of all that can be merged."""


_VARIANTS: Mapping[str, Architecture] = {
    "sd3.5-medium": SD35_MEDIUM,
    "ssd-1b": replace(SDXL, title="SSD-1B"),
    "segmind-vega": replace(SDXL, title="Segmind Vega"),
}
"""Kind to the architecture of a relative: another title, the same table and the same name in recipes."""


def identify(shapes: Shapes, kind: ModelKind | None = None, dtypes: Mapping[str, str] | None = None) -> Architecture:
    """The architecture of a checkpoint, from its keys and shapes.

    Args:
        shapes: key to shape.
        kind: what ``detect_kind`` says, where that was asked before.
        dtypes: key to dtype as files name it, where that is known: tensors of whole numbers do not count.

    Raises:
        CheckpointError: it cannot be merged; the text says what it looks like instead.
    """
    kind = kind or detect_kind(shapes)
    architecture = _VARIANTS.get(kind.name) or ARCHITECTURES.get(kind.name)
    if architecture is None:
        raise unsupported(kind)
    places = {key: architecture.place(key) for key in shapes}
    # the head counts as the last block's, and does not make it
    present = {place.block for place in places.values() if place.slot is None or place.block == "BASE"}
    lacking = [block for block in architecture.blocks if block not in present]
    strangers = [
        key
        for key in _strangers(architecture, places)
        if 0 not in shapes[key] and (dtypes is None or dtypes[key] in FLOATS)
    ]
    if strangers:
        some = and_more([printable(key) for key in strangers])
        raise CheckpointError(f"this looks like {kind.words}, but such a model has no {some}; it cannot be merged")
    if lacking:
        some = and_more(lacking)
        raise CheckpointError(
            f"this is {kind.words} with parts missing ({some}); download or export it again; "
            "if it is a cut-down network, it cannot be merged"
        )
    return architecture


def unsupported(kind: ModelKind) -> CheckpointError:
    """The refusal of a kind that cannot be merged."""
    known = ", ".join(architecture.title for architecture in ARCHITECTURES.values())
    return CheckpointError(f"this is {kind.words}; {kind.way_out or f'only {known} can be merged'}")


def _strangers(architecture: Architecture, places: Mapping[str, Place]) -> list[str]:
    """The tensors of the network and its text encoders that a model of this architecture does not have.

    A file that looks like a known network and has more than that is another network: to merge what is known of it and
    to keep the rest would make a model that does not work. Outside of the network there are leftovers of training
    (``embedding_manager``, ``denoiser.sigmas``), which nothing reads.
    """
    bare = any(place.role == "block" and key.startswith(_BARE) for key, place in places.items())
    found = []
    for key, place in places.items():
        if place.role == "other":
            if _PREFIXED.match(key) or (bare and not _LEFTOVER.match(key)):
                found.append(key)
        elif place.role == "block" and place.slot not in TEXT_SLOTS and not architecture.knows(key):
            found.append(key)
    return found


def own_blocks(data: Any) -> OwnBlocks:
    """A custom division into blocks, from plain data: block -> the start of its keys, or a list of them.

    The first block with a start that fits takes a key; ``*`` stands for any text; what fits nowhere belongs to
    ``BASE``. Position ids, markers, schedules and the choice of the VAE are not part of the table.

    Args:
        data: a table, or the pairs that a recipe keeps.

    Raises:
        ConfigError: it has a different form.
    """
    pairs = list(data.items()) if isinstance(data, Mapping) else data
    if not isinstance(pairs, Sequence) or isinstance(pairs, str) or not pairs:
        raise ConfigError("blocks: expected a table, like  ATTN: ['*.attn1.', '*.attn2.']")
    found: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ConfigError(f"blocks: {pair!r} is not a block with its keys; write  ATTN: ['*.attn1.', '*.attn2.']")
        name, starts = pair
        starts = [starts] if isinstance(starts, str) else starts
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ConfigError(f"blocks: {name!r} is not a valid block name; use letters, digits and _")
        if name.upper() in found:
            raise ConfigError(f"blocks: {name} appears twice; give each block one list of keys")
        texts = isinstance(starts, Sequence) and all(isinstance(start, str) and start for start in starts)
        if not texts or not starts:
            raise ConfigError(f"blocks: {name}: {starts!r} is not a list of key starts, like ['*.attn1.', '*.attn2.']")
        found[name.upper()] = tuple(starts)
    return tuple(found.items())


def divided(whole: Architecture, own: OwnBlocks, shapes: Shapes | None = None) -> Architecture:
    """The architecture under a custom division into blocks; itself if there is none.

    Args:
        whole: the architecture.
        own: from ``own_blocks``.
        shapes: the tensors of a model; with them, starts and blocks that take no tensor are refused.

    Raises:
        ConfigError: such a start or block.
    """
    if not own:
        return whole
    rules = tuple(Rule(re.escape(start).replace(r"\*", ".*"), name) for name, starts in own for start in starts)
    blocks = tuple(dict.fromkeys(("BASE", *(name for name, _ in own))))
    slots = tuple(slot for slot in whole.slots if slot not in blocks)
    architecture = replace(whole, blocks=blocks, rules=rules, slots=slots, whole=whole)
    if shapes is not None:
        _check_division(architecture, own, shapes)
    return architecture


def _check_division(architecture: Architecture, own: OwnBlocks, shapes: Shapes) -> None:
    starts = [start for _, several in own for start in several]
    for start, rule in zip(starts, architecture.rules, strict=True):
        if not any(rule.find(key) for key in shapes):
            known = {key[: match.end()] for key in shapes for match in re.finditer(r"\.", key)}
            raise ConfigError(f"blocks: no tensor of model A starts with {start!r}; {nearest(start, known, listed=4)}")
    taken = {architecture.place(key).block for key in shapes}
    for name, _ in own:
        if name != "BASE" and name not in taken:
            raise ConfigError(f"blocks: {name} gets no tensors, because blocks before it take them all; move it up")
