"""A tiny open_clip model with its weights, heads that fit it, and real heads where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

TINY_CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(architecture JSON, weights) of a random CLIP of width 16."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    config = folder / "tiny.json"
    config.write_text(json.dumps(TINY_CLIP))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**json.loads(config.read_text()))
    weights = folder / "tiny.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, weights)
    return config, weights


@pytest.fixture(scope="session")
def facts() -> Path:
    """The folder of real files, named by BAYES_MERGER_FACTS; tests that want it are skipped without."""
    folder = os.environ.get("BAYES_MERGER_FACTS")
    if not folder or not (Path(folder) / "heads").is_dir():
        pytest.skip("BAYES_MERGER_FACTS names no folder with heads/")
    return Path(folder)
