"""Renames CLIP weights from `transformers` names to open_clip's names.

The two libraries hold the same numbers; transformers keeps query, key and value apart, and its two projections
transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOP = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
}
NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # the spelling mistake is theirs
    "vision_model.post_layernorm": "visual.ln_post",
}
INSIDE = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """`state` with open_clip's names; anything that is not a transformers CLIP is returned unchanged.

    Args:
        state: key -> tensor of a CLIP, or of its half for pictures or for texts.
    """
    if not any(key.startswith(("vision_model.", "text_model.")) for key in state):
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith("position_ids"):  # numbers 0, 1, 2, ... that older versions saved
            continue
        layer = LAYER.fullmatch(key)
        if layer is None:
            name, turned = _outside(key)
            renamed[name] = tensor.T.contiguous() if turned else tensor
        elif layer[3] == "self_attn.q_proj":
            name = f"{_block(layer)}.attn.in_proj_{layer[4]}"
            renamed[name] = _joined(state, key)
        elif layer[3] not in ("self_attn.k_proj", "self_attn.v_proj"):
            renamed[f"{_block(layer)}.{INSIDE.get(layer[3], layer[3])}.{layer[4]}"] = tensor
    return renamed


def _block(layer: re.Match[str]) -> str:
    return f"{'visual.' if layer[1] == 'vision' else ''}transformer.resblocks.{layer[2]}"


def _joined(state: Mapping[str, Tensor], query: str) -> Tensor:
    import torch

    return torch.cat([state[query.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])


def _outside(key: str) -> tuple[str, bool]:
    if key in TOP:
        return TOP[key], False
    if key == "text_projection.weight":
        return "text_projection", True
    if key == "visual_projection.weight":
        return "visual.proj", True
    norm, _, part = key.rpartition(".")
    return (f"{NORMS[norm]}.{part}" if norm in NORMS else key), False  # the strict loader reports an unknown key
