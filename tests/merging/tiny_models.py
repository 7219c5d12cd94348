"""Checkpoints with SD1.x's layout and a handful of numbers per tensor, made in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from bayes_merger.merging import (
    SD1,
    Checkpoint,
    MergeRecipe,
    ModelRef,
    method_spec,
    open_checkpoint,
    weights_from_string,
)

UNET = "model.diffusion_model."
FIRST = UNET + "input_blocks.0.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
PROJECTION = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"

SHAPES: dict[str, tuple[int, ...]] = {
    FIRST: (8, 4, 3, 3),
    **{f"{UNET}input_blocks.{i}.0.in_layers.2.weight": (6, 5, 3, 3) for i in range(1, 12)},
    **{f"{UNET}input_blocks.{i}.0.in_layers.2.bias": (6,) for i in range(1, 12)},
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (6, 7),
    f"{UNET}middle_block.0.in_layers.2.weight": (6, 5, 3, 3),
    **{f"{UNET}output_blocks.{i}.0.in_layers.2.weight": (6, 5, 3, 3) for i in range(12)},
    f"{UNET}time_embed.0.weight": (9, 3),
    f"{UNET}out.2.weight": (4, 3, 3, 3),
    VAE: (5, 4, 3, 3),
    TEXT: (11, 4),
    PROJECTION: (7, 4),
    "cond_stage_model.logit_scale": (),
}


def tensors_of(seed: int, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in SHAPES.items()}


def write_model(
    path: Path,
    seed: int,
    dtype: torch.dtype = torch.float16,
    *,
    change: Mapping[str, torch.Tensor | None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    tensors = tensors_of(seed, dtype) | {IDS: torch.arange(7).expand(1, -1).contiguous()}
    for key, tensor in (change or {}).items():
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    save_file(tensors, path, metadata=dict(metadata) if metadata else None)
    return path


def even(text: str = "0.5", method: str = "weighted_sum") -> dict[str, dict[str, float]]:
    """The same numbers for every weight of a method."""
    return {name: weights_from_string(text, SD1) for name in method_spec(method).weights}


def uneven(method: str) -> dict[str, dict[str, float]]:
    """Other numbers for every block, inside the ranges that are searched."""
    return {
        name: {block: r.low + (r.high - r.low) * ((7 * i + k) % 26) / 27 for i, block in enumerate(SD1.blocks)}
        for k, (name, r) in enumerate(method_spec(method).weights.items())
    }


def recipe_of(
    checkpoints: Mapping[str, Checkpoint],
    weights: Mapping[str, Mapping[str, float]] | None = None,
    method: str = "weighted_sum",
    dtype: str | None = None,
    vae: str = "a",
) -> MergeRecipe:
    models = {name: ModelRef(str(checkpoint.path), checkpoint.sha256()) for name, checkpoint in checkpoints.items()}
    return MergeRecipe(
        method=method, models=models, weights=weights or even(method=method), architecture="sd1", dtype=dtype, vae=vae
    )


def opened(folder: Path, count: int = 2, dtype: torch.dtype = torch.float16) -> dict[str, Checkpoint]:
    """Models a, b(, c, d, e) of seeds 1, 2, 3, 4, 5."""
    return {
        name: open_checkpoint(write_model(folder / f"{name}.safetensors", seed, dtype))
        for seed, name in enumerate("abcde"[:count], start=1)
    }
