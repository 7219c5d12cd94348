"""The names of text encoders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from bayes_merger.checkpoints.naming.counterpart import Counterpart

COPY = Counterpart("")
"""Marks a tensor that duplicates another one."""

OPEN_CLIP: Mapping[str, str] = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
"""The layers of a text encoder's block: transformers' name to OpenCLIP's."""

OPEN_CLIP_EDGES: Mapping[str, str] = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
"""The tensors of a text encoder outside its blocks: transformers' name to OpenCLIP's."""


def encoder_names(prefix: str, names: Collection[str]) -> Callable[[str], Counterpart | None]:
    """The names of a text encoder: transformers' own behind some prefixes, OpenCLIP's behind others."""
    if prefix.endswith("model."):
        return lambda name: _open_clip(prefix, name)

    def own(name: str) -> Counterpart:
        if name == "encoder.embed_tokens.weight":  # T5 has its embeddings under two names, and files one of them
            return COPY if "shared.weight" in names else Counterpart(f"{prefix}shared.weight")
        return Counterpart(prefix + with_text_model(name))

    return own


def with_text_model(name: str) -> str:
    """CLIP's names as files have them; transformers left ``text_model.`` out from 5.6 on."""
    own = name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm."))
    return f"text_model.{name}" if own else name


def _open_clip(prefix: str, name: str) -> Counterpart | None:
    if name == "text_projection.weight":
        return Counterpart(f"{prefix}text_projection", transposed=True)
    own = name.removeprefix("text_model.")
    if own in OPEN_CLIP_EDGES:
        return Counterpart(prefix + OPEN_CLIP_EDGES[own])
    match own.split("."):
        case ["encoder", "layers", i, "self_attn", "q_proj" | "k_proj" | "v_proj", leaf]:
            start = name.rpartition(".self_attn.")[0]
            stack = tuple(f"{start}.self_attn.{part}_proj.{leaf}" for part in "qkv")
            return Counterpart(f"{prefix}transformer.resblocks.{i}.attn.in_proj_{leaf}", stack)
        case ["encoder", "layers", i, *rest] if ".".join(rest[:-1]) in OPEN_CLIP:
            return Counterpart(f"{prefix}transformer.resblocks.{i}.{OPEN_CLIP['.'.join(rest[:-1])]}.{rest[-1]}")
    return None
