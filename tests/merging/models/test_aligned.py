"""Models whose files put other prefixes before the same keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.models.aligned import aligned
from tests.folders import write_file

START = "model.diffusion_model."


def renamed(path: Path, out: Path, network: str, vae: str) -> Path:
    """The same model with other prefixes."""
    tensors = {}
    for key, tensor in load_file(path).items():
        key = network + key.removeprefix(START) if key.startswith(START) else key
        tensors[vae + key.removeprefix("vae.") if key.startswith("vae.") else key] = tensor
    save_file(tensors, out)
    return out


@pytest.mark.parametrize("network", ["", "diffusion_model.", START])
@pytest.mark.parametrize("vae", ["vae.", "first_stage_model."])
def test_prefixes_make_no_difference(network: str, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "a.safetensors", "flux", 0)
    write_file(tmp_path / "b.safetensors", "flux", 1)
    renamed(tmp_path / "b.safetensors", tmp_path / "other.safetensors", network, vae)
    for name in ("b", "other"):
        pair = ["merge", "model_a=a.safetensors", f"model_b={name}.safetensors", "alpha=0.3", "vae=merge"]
        assert main([*pair, "--out", f"{name}-out.safetensors"]) == 0
    first, second = load_file("b-out.safetensors"), load_file("other-out.safetensors")
    assert first.keys() == second.keys() == load_file("a.safetensors").keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    steps = "models: {x: a.safetensors, y: other.safetensors}\nsteps:\n"
    steps += "  - {name: mix, a: x, b: y, alpha: 0.3, vae: merge}\n"
    Path("steps.yaml").write_text(steps)
    assert main(["merge", "steps.yaml", "--out", "steps-out.safetensors"]) == 0
    third = load_file("steps-out.safetensors")
    assert all(torch.equal(tensor, third[key]) for key, tensor in first.items())


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    bare = renamed(write_file(tmp_path / "a.safetensors", "flux"), tmp_path / "bare.safetensors", "", "vae.")
    twice = {"diffusion_model.img_in.bias": torch.zeros(8), **load_file(tmp_path / "a.safetensors")}
    save_file(twice, tmp_path / "twice.safetensors")
    with open_checkpoint(tmp_path / "twice.safetensors") as model, open_checkpoint(bare) as base:
        with pytest.raises(CheckpointError, match="are the same tensor"):
            aligned(model, base)
        assert aligned(base, base) is base


def test_of_two_vaes_in_a_file_the_one_that_is_called_as_model_a_s_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = load_file(write_file(tmp_path / "a.safetensors", "flux"))
    vae = {key: tensor for key, tensor in tensors.items() if key.startswith("vae.")}
    ones = {f"first_stage_model.{key.removeprefix('vae.')}": torch.ones_like(tensor) for key, tensor in vae.items()}
    save_file(vae | ones, "both.safetensors")
    pair = ["merge", "model_a=a.safetensors", "model_b=a.safetensors", "alpha=0.3", "vae=both.safetensors"]
    assert main([*pair, "--out", "out.safetensors"]) == 0
    merged = load_file("out.safetensors")
    assert all(torch.equal(merged[key], tensor) for key, tensor in vae.items())
