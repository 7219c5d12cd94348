"""The script that makes the demo models runs to the end, and what it writes loads in plain diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.demo import train


@pytest.mark.slow
def test_a_quick_run_makes_every_file(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    train.main(["--out", str(tmp_path), "--quick"])

    for name in ("a", "b", "c"):
        pipe = StableDiffusionPipeline.from_single_file(
            str(tmp_path / "models" / f"{name}.safetensors"),
            config=str(tmp_path / "diffusers"),
            local_files_only=True,
            torch_dtype=torch.float32,
        )
        assert len(pipe.tokenizer) == 49408
    head = load_file(tmp_path / "models" / "head.safetensors")
    assert head["weight"].shape == (1, 64)


def test_the_specialists_change_different_blocks() -> None:
    assert not set(train.CHANGES["a"]) & set(train.CHANGES["b"])
