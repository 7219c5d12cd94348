"""Two tiny Stable Diffusion checkpoints that were really trained, their common base, and a scorer to match.

    A  knows the shapes (disc, ring, square, triangle, cross, diamond), and paints them in any colour
    B  knows the colours (of the object and of the background), and paints any shape
    C  the base both were fine-tuned from: has some idea of both

All three are in the single-file layout of SD1.x with its 12 / 1 / 12 U-Net blocks and draw 64x64 pictures. The right
merge, block by block, knows both halves. `python -m bayes_merger.demo.train` makes everything here again; how, and
what came out, is in README.md next to this file. Nothing heavy is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

ROOM = Path(__file__).parent
MODELS = ROOM / "models"
CLIP_NAME = "clip"
"""The name that open_clip knows the tiny model by, once `open_clip.add_model_config(clip_config())` was called."""

Name = Literal["a", "b", "c"]


def model_path(name: Name) -> Path:
    """A specialist (`a`, `b`) or the base (`c`): a single-file checkpoint in float16."""
    return MODELS / f"{name}.safetensors"


def config_dir() -> Path:
    """What `StableDiffusionPipeline.from_single_file(path, config=...)` needs offline, tokenizer included."""
    return ROOM / "diffusers"


def clip_config() -> Path:
    """The open_clip model config (JSON) of the tiny scorer; its file name is `CLIP_NAME`."""
    return MODELS / f"{CLIP_NAME}.json"


def clip_weights() -> Path:
    """The tiny scorer's weights, for `open_clip.create_model(CLIP_NAME, pretrained=...)`."""
    return MODELS / "clip.safetensors"


def head_path() -> Path:
    """The aesthetic head on the L2-normalised image embedding: `weight` (1, d) and `bias` (1,)."""
    return MODELS / "head.safetensors"


def paths() -> dict[str, Path]:
    """Every embedded file by the name that configuration knows it by (`${demo:a}`)."""
    return {
        "a": model_path("a"),
        "b": model_path("b"),
        "c": model_path("c"),
        "config": config_dir(),
        "clip": clip_weights(),
        "clip_config": clip_config(),
        "head": head_path(),
    }
