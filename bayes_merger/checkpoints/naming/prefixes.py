"""Names of the same tensors in single files, which differ between programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from bayes_merger.checkpoints.naming.counterpart import UNET, VAE

NETWORK = r"^(?:(?:model\.)?diffusion_model\.|model\.model\.|net\.|model\.)?"
"""What files put before the tensors of the network: most of them ``UNET``, those of the network alone often nothing."""

_NETWORK = re.compile(
    NETWORK + r"(?P<name>(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out\.[02]"
    r"|double_blocks|single_blocks|joint_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer"
    r"|distilled_guidance_layer|x_embedder|context_embedder|t_embedder|y_embedder)\..+|pos_embed)$"
)
_NORM = re.compile(r"(query_norm|key_norm|norms\.\d+)\.weight$")

Rename = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_RENAMED: tuple[Rename, ...] = (  # the first that fits counts
    (_NETWORK, lambda found: UNET + _NORM.sub(r"\1.scale", found["name"])),
    (re.compile(r"^(?:model\.)?diffusion_model\."), UNET),
    (re.compile(r"^vae\."), VAE),
    # the XL family's text encoders are known by what they are made of, wherever they stand
    (re.compile(r"^conditioner\.embedders\.1\.transformer\."), "conditioner.embedders.0.transformer."),
    (re.compile(r"^(?=(?:clip_l|clip_g|t5xxl)\.)"), "text_encoders."),
)
_OPEN_CLIP = "conditioner.embedders.0.model."  # the name of Stability AI's newer code for the only text encoder, too


def canonical_keys(keys: Collection[str]) -> dict[str, str]:
    """Each key, and the one that stands for the same tensor whatever names a file has.

    Canonical are ``model.diffusion_model.`` before the network's tensors, ``first_stage_model.`` before the VAE's,
    ``scale`` for the norms of Flux and Chroma, and the text encoders' places in the official files of each model.
    """
    pair = any(key.startswith("conditioner.embedders.1.") for key in keys)
    open_clip = "conditioner.embedders.1.model." if pair else "cond_stage_model.model."
    return {key: _canonical(key, open_clip) for key in keys}


def _canonical(key: str, open_clip: str) -> str:
    if key.startswith(UNET) and "norm" not in key[-18:]:  # most of them: worth a short way
        return key
    if key.startswith(_OPEN_CLIP):
        return open_clip + key.removeprefix(_OPEN_CLIP)
    for pattern, name in _RENAMED:
        renamed, count = pattern.subn(name, key, count=1)
        if count:
            return renamed
    return key
