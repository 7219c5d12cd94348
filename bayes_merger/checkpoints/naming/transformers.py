"""The names of the transformers of Stable Diffusion 3 and Flux."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bayes_merger.checkpoints.naming.counterpart import UNET, Counterpart

_SD3_EDGES = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
}
_SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_SD3_STACKED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}

_FLUX_EDGES = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
_FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_FLUX_DOUBLE_STACKED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
_FLUX_SINGLE_STACKED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def _layers(edges: Mapping[str, str], names: Iterable[str]) -> str:
    every = {*edges.values(), *names, "final_layer.adaLN_modulation.1"}
    return rf"(?:{'|'.join(map(re.escape, sorted(every)))})\.(?:weight|bias|scale)"


SD3_LAYERS = _layers(_SD3_EDGES, (*_SD3_BLOCK.values(), *_SD3_STACKED)) + r"|pos_embed"
FLUX_LAYERS = _layers(
    _FLUX_EDGES, (*_FLUX_DOUBLE.values(), *_FLUX_DOUBLE_STACKED, *_FLUX_SINGLE.values(), *_FLUX_SINGLE_STACKED)
)
"""Patterns of the tensors in and around a transformer's blocks, as files call them."""

_SWAPPED_EDGE = "final_layer.adaLN_modulation.1"
_ENDING = 2  # rows per column where a modulation is scale and shift alone, as at the end; in others it is thrice that
_CHROMA_GUIDANCE = {"in": ".linear_1", "out": ".linear_2"}
_EDGE_LAYERS = {file: diffusers for edges in (_SD3_EDGES, _FLUX_EDGES) for diffusers, file in edges.items()}
_BLOCKS: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, tuple[str, ...]]]] = {
    "joint_blocks": ("transformer_blocks", _SD3_BLOCK, _SD3_STACKED),
    "double_blocks": ("transformer_blocks", _FLUX_DOUBLE, _FLUX_DOUBLE_STACKED),
    "single_blocks": ("single_transformer_blocks", _FLUX_SINGLE, _FLUX_SINGLE_STACKED),
}


@dataclass(frozen=True)
class Sd3Names:
    """The transformer of Stable Diffusion 3.

    Attributes:
        ending: the blocks (the last one) whose context part ends early and is normalised as the output is.
    """

    ending: frozenset[str]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Sd3Names:
        """The names of a transformer with these tensors."""
        found = set()
        for name, shape in shapes.items():
            block = re.fullmatch(r"transformer_blocks\.(\d+)\.norm1_context\.linear\.weight", name)
            if block and len(shape) == 2 and shape[0] == _ENDING * shape[1]:
                found.add(block[1])
        return cls(frozenset(found))

    def name(self, name: str) -> Counterpart | None:
        """Where a tensor of the transformer is in a single file."""
        head, _, leaf = name.rpartition(".")
        if name in _SD3_EDGES:
            return Counterpart(UNET + _SD3_EDGES[name])
        if head in _SD3_EDGES:
            return Counterpart(f"{UNET}{_SD3_EDGES[head]}.{leaf}")
        if head == "norm_out.linear":
            return Counterpart(f"{UNET}{_SWAPPED_EDGE}.{leaf}", swapped=True)
        match name.split("."):
            case ["transformer_blocks", i, *rest]:
                swapped = i in self.ending and rest[0] == "norm1_context"
                start = f"{UNET}joint_blocks.{i}."
                return _of_block(f"transformer_blocks.{i}.", start, rest, _SD3_BLOCK, _SD3_STACKED, swapped=swapped)
        return None


def flux_name(name: str) -> Counterpart | None:
    """Where a tensor of Flux's transformer is in a single file."""
    head, _, leaf = name.rpartition(".")
    if head in _FLUX_EDGES:
        return Counterpart(f"{UNET}{_FLUX_EDGES[head]}.{leaf}")
    if head == "norm_out.linear":
        return Counterpart(f"{UNET}{_SWAPPED_EDGE}.{leaf}", swapped=True)
    match name.split("."):
        case ["transformer_blocks", i, *rest]:
            start = f"{UNET}double_blocks.{i}."
            return _of_block(f"transformer_blocks.{i}.", start, rest, _FLUX_DOUBLE, _FLUX_DOUBLE_STACKED)
        case ["single_transformer_blocks", i, *rest]:
            start = f"{UNET}single_blocks.{i}."
            return _of_block(f"single_transformer_blocks.{i}.", start, rest, _FLUX_SINGLE, _FLUX_SINGLE_STACKED)
    return None


def layers_in(name: str, rows: int, columns: int) -> tuple[tuple[str, ...], bool]:
    """Diffusers' names of the layers stacked in a layer of a single file, in order, and whether its halves are swapped.

    Args:
        name: of the file's layer, without its prefix and ``.weight``.
        rows: of its matrix.
        columns: of its matrix.

    Returns:
        One name for most, several where they are stacked, none for layers of another network.
    """
    if name == _SWAPPED_EDGE:
        return ("norm_out.linear",), True
    if name in _EDGE_LAYERS:
        return (_EDGE_LAYERS[name],), False
    kind, _, rest = name.partition(".")
    number, _, layer = rest.partition(".")
    if kind == "distilled_guidance_layer":
        return (re.sub(r"\.(in|out)_layer$", lambda end: _CHROMA_GUIDANCE[end[1]], name),), False
    if kind not in _BLOCKS:
        return (), False
    own, names, stacked = _BLOCKS[kind]
    found = stacked.get(layer) or tuple(theirs for theirs, file in names.items() if file == layer)
    ending = kind == "joint_blocks" and found == ("norm1_context.linear",) and rows == _ENDING * columns
    return tuple(f"{own}.{number}.{part}" for part in found), ending


def _of_block(
    own: str,
    start: str,
    rest: Sequence[str],
    names: Mapping[str, str],
    stacked: Mapping[str, tuple[str, ...]],
    *,
    swapped: bool = False,
) -> Counterpart | None:
    """A tensor of a transformer's block.

    Args:
        own: what diffusers puts before the block's tensors.
        start: what files put before them.
        rest: the name in the block.
        names: diffusers' name of a layer to the file's.
        stacked: the file's name of a layer to those of diffusers that are stacked in it.
        swapped: as in ``Counterpart``.
    """
    layer, leaf = ".".join(rest[:-1]), rest[-1]
    if layer in names:
        # Flux's files call the one vector of a norm its scale
        leaf = "scale" if names[layer].endswith(("query_norm", "key_norm")) else leaf
        return Counterpart(f"{start}{names[layer]}.{leaf}", swapped=swapped)
    for name, layers in stacked.items():
        if layer in layers:
            return Counterpart(f"{start}{name}.{leaf}", tuple(f"{own}{part}.{leaf}" for part in layers))
    return None
