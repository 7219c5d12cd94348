"""The script that makes the demo models runs to the end, and what it writes loads in plain diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger import demo
from bayes_merger.demo import skills, train


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


@pytest.mark.slow
def test_a_quick_run_makes_a_pair_of_other_skills(tmp_path: Path) -> None:
    skills.main(["--out", str(tmp_path / "pair"), "--quick"])

    shapes = {name: load_file(tmp_path / "pair" / f"{name}.safetensors") for name in "abc"}
    shipped = load_file(demo.model_path("c"))
    for name, tensors in shapes.items():
        assert {key: tensor.shape for key, tensor in tensors.items()} == {
            key: tensor.shape for key, tensor in shipped.items()
        }, name
    changed = {key for key, tensor in shapes["a"].items() if not torch.equal(tensor, shapes["b"][key])}
    assert changed
    assert all(key.startswith("model.diffusion_model.") for key in changed)
    assert "most_salient" in (tmp_path / "pair" / "README.md").read_text()
