"""The shapes of the demo's networks, as the config files that diffusers and open_clip read, and how to build them.

The U-Net has SD1.x's full 12 / 1 / 12 blocks and its (c, 2c, 3c, 3c)-like change of widths, so every key of an SD1.x
U-Net exists; the VAE has three levels (64x64 pixels are 16x16 latents), the text encoder four layers.
"""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

CONTEXT = 77
TEXT_WIDTH = 24

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [32, 64, 72, 72],
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "attention_head_dim": [1, 2, 2, 2],  # the number of heads, as in SD1.x; few, because that is quick
    "cross_attention_dim": TEXT_WIDTH,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "act_fn": "silu",
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 48],
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "act_fn": "silu",
    "scaling_factor": 1.0,
}
TEXT_ENCODER: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": CONTEXT,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "projection_dim": TEXT_WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
MODEL_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": CONTEXT,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12},  # a small ResNet: shapes are local
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's byte pair encoding (49408 tokens and their merges), from the table inside the open_clip wheel."""
    from open_clip.tokenizer import bytes_to_unicode

    table = files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = [tuple(line.split()) for line in gzip.decompress(table).decode("utf-8").split("\n")[1:48895]]
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}, [(left, right) for left, right in merges]


def write_configs(folder: Path, *, scaling_factor: float) -> None:
    """Write what `StableDiffusionPipeline.from_single_file(path, config=folder)` reads, tokenizer included."""
    trees = {
        "model_index.json": MODEL_INDEX,
        "unet/config.json": UNET,
        "vae/config.json": {**VAE, "scaling_factor": round(scaling_factor, 5)},
        "text_encoder/config.json": TEXT_ENCODER,
        "scheduler/scheduler_config.json": SCHEDULER,
        "tokenizer/tokenizer_config.json": TOKENIZER,
    }
    for name, content in trees.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    vocab, merges = vocabulary()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocab, separators=(",", ":")), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def tokenizer() -> Any:
    """transformers' CLIPTokenizer over `vocabulary`; pads to 77 with the end token."""
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT, pad_token="<|endoftext|>")


def vae() -> Any:
    """A fresh AutoencoderKL of the demo's shape."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(VAE)


def unet() -> Any:
    """A fresh UNet2DConditionModel of the demo's shape."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(UNET)


def text_encoder() -> Any:
    """A fresh CLIPTextModel of the demo's shape."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**{k: v for k, v in TEXT_ENCODER.items() if k != "model_type"}))
