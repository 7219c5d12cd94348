"""Tiny checkpoints with SD1.x's complete topology: 1130 keys in 2 MB, made in half a second, never committed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

SD15 = Path(__file__).parents[1] / "bayes_merger" / "checkpoints" / "configs" / "sd15"

KEY = "model.diffusion_model.output_blocks.5.1.transformer_blocks.0.attn1.to_out.0.weight"
"""One of their tensors, in OUT05."""

# Steps between widths as in the original, so that every shortcut exists: (c, 2c, 3c, 3c).
WIDTHS = [8, 16, 24, 24]
CHANGES: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": WIDTHS,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        "sample_size": 8,
    },
    "vae": {"block_out_channels": WIDTHS, "norm_num_groups": 8, "sample_size": 64},
    "text_encoder": {"hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2, "projection_dim": 8},
}


def tiny_config(directory: Path) -> Path:
    """A diffusers config tree (no weights, no vocabulary) that fits `make_tiny_sd1`."""
    shutil.copytree(SD15, directory, dirs_exist_ok=True)
    for part, changes in CHANGES.items():
        file = directory / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2))
    return directory


def make_tiny_sd1(path: Path, *, seed: int, dtype: torch.dtype = torch.float16) -> Path:
    """A single-file checkpoint of random weights; every parameter is perturbed, since fresh zeros hide mix-ups."""
    from safetensors.torch import save_file

    from bayes_merger.imaging.pipelines.keymap import to_single_file

    modules = tiny_modules(seed)
    tensors = to_single_file(**{part: module.state_dict() for part, module in modules.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.to(dtype).contiguous() for key, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return path


def tiny_modules(seed: int) -> dict[str, torch.nn.Module]:
    """The three models, float32: {"unet": ..., "vae": ..., "text_encoder": ...}."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    configs = {part: json.loads((SD15 / part / "config.json").read_text()) | CHANGES[part] for part in CHANGES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: dict[str, torch.nn.Module] = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }
        with torch.no_grad():
            for module in modules.values():
                for parameter in module.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return modules
