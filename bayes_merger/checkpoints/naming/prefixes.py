"""Prefixes of the keys of a single file, which differ between programs."""

from __future__ import annotations

import re
from collections.abc import Collection

from bayes_merger.checkpoints.naming.counterpart import UNET, VAE

# Transformers are mostly distributed alone, and then often without a prefix.
_BARE = re.compile(
    r"(?:double_blocks|single_blocks|joint_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer"
    r"|x_embedder|context_embedder|t_embedder|y_embedder)\."
)
_BLOCK = re.compile(r"(?:double_blocks|joint_blocks)\.")


def canonical_keys(keys: Collection[str]) -> dict[str, str]:
    """Each key, and the one that stands for the same tensor whatever prefixes a file has.

    A transformer's keys begin with ``model.diffusion_model.``, ``diffusion_model.`` or nothing, a VAE's with
    ``first_stage_model.`` or ``vae.``; the first of each is the canonical one.
    """
    bare = any(_BLOCK.match(key) for key in keys)
    return {key: _canonical(key, bare) for key in keys}


def _canonical(key: str, bare: bool) -> str:
    if key.startswith("diffusion_model."):
        return f"model.{key}"
    if key.startswith("vae."):
        return VAE + key.removeprefix("vae.")
    if bare and (_BARE.match(key) or key == "pos_embed"):
        return UNET + key
    return key
