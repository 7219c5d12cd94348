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
from tests.command_line import refused
from tests.folders import write_file
from tests.merging.tiny_models import PROJECTION, write_model

START = "model.diffusion_model."


def renamed(path: Path, out: Path, network: str, vae: str) -> Path:
    """The same model with other prefixes."""
    tensors = {}
    for key, tensor in load_file(path).items():
        key = network + key.removeprefix(START) if key.startswith(START) else key
        tensors[vae + key.removeprefix("vae.") if key.startswith("vae.") else key] = tensor
    save_file(tensors, out)
    return out


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("network", "vae"), [("", "first_stage_model."), ("diffusion_model.", "vae."), (START, "first_stage_model.")]
)
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
        with pytest.raises(CheckpointError, match=r"twice\.safetensors: .* are the same tensor; remove one"):
            aligned(base, model)
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


NAMES: dict[str, tuple[str, str]] = {  # what is renamed, and how other programs call it
    "the norms of Flux": ("_norm.scale", "_norm.weight"),
    "SD-Turbo's text encoder": ("cond_stage_model.model.", "conditioner.embedders.0.model."),
    "net.": (START, "net."),
    "model.": (START, "model."),
    "model.model.": (START, "model.model."),
    "nothing": (START, ""),
    "ComfyUI's network alone": (START, "diffusion_model."),
    "text encoders alone": ("text_encoders.", ""),
    "swapped text encoders": ("", ""),
}
FAMILIES = {
    "the norms of Flux": ("flux",), "SD-Turbo's text encoder": ("sd2",), "swapped text encoders": ("sdxl",),
    "text encoders alone": ("flux", "sd3"), "net.": ("sd1", "flux"), "model.": ("sd2", "sdxl"),
    "model.model.": ("sdxl", "flux"), "nothing": ("sd1", "sd2", "sdxl", "flux"), "ComfyUI's network alone": ("sd1", "sd2"),
}  # fmt: skip
SWAPPED = {
    "conditioner.embedders.0.": "conditioner.embedders.1.",
    "conditioner.embedders.1.": "conditioner.embedders.0.",
}


def other_name(key: str, old: str, new: str) -> str:
    if not old:
        return next((theirs + key.removeprefix(own) for own, theirs in SWAPPED.items() if key.startswith(own)), key)
    return key.replace(old, new)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("how", "family"), [(how, family) for how in NAMES for family in FAMILIES[how]])
def test_other_names_for_the_same_tensors_make_no_difference(
    how: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = (load_file(write_file(tmp_path / f"{name}.safetensors", family, seed)) for seed, name in enumerate("ab"))
    renamed = {other_name(key, *NAMES[how]): tensor for key, tensor in b.items()}
    assert renamed.keys() != b.keys()
    save_file(renamed, "other.safetensors")
    for first, second, back in (("a", "other", a), ("other", "a", renamed)):
        pair = [f"model_a={first}.safetensors", f"model_b={second}.safetensors", "alpha=0.5", "vae=merge"]
        assert main(["merge", *pair, "--out", "out.safetensors", "--overwrite"]) == 0
        merged = load_file("out.safetensors")
        assert merged.keys() == back.keys()
        for key, tensor in b.items():
            own = key if first == "a" else other_name(key, *NAMES[how])
            assert torch.allclose(merged[own], (a[key] + tensor) / 2, atol=1e-5), key


def test_a_norm_under_both_names_is_refused(tmp_path: Path) -> None:
    key = "model.diffusion_model.double_blocks.0.img_attn.norm.query_norm."
    tensors = load_file(write_file(tmp_path / "a.safetensors", "flux"))
    save_file(tensors | {f"{key}weight": tensors[f"{key}scale"].clone()}, tmp_path / "twice.safetensors")
    with (
        open_checkpoint(tmp_path / "twice.safetensors") as model,
        open_checkpoint(tmp_path / "a.safetensors") as base,
        pytest.raises(CheckpointError, match="are the same tensor"),
    ):
        aligned(model, base)


def test_a_convolution_without_its_1x1_is_the_same_tensor(tmp_path: Path) -> None:
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    tensors = load_file(write_file(tmp_path / "a.safetensors", "sd1"))
    save_file(tensors | {key: tensors[key].flatten(1)}, tmp_path / "b.safetensors")
    with open_checkpoint(tmp_path / "b.safetensors") as model, open_checkpoint(tmp_path / "a.safetensors") as base:
        seen = aligned(model, base)
        assert seen.shapes[key] == base.shapes[key]
        assert torch.equal(seen.tensor(key), tensors[key])


@pytest.mark.parametrize(("a", "b"), [((), (1,)), ((1,), ())])
def test_a_lone_number_may_be_a_vector_of_one(
    a: tuple[int, ...], b: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = "cond_stage_model.logit_scale"
    write_model(tmp_path / "a.safetensors", 1, change={key: torch.full(a, 4.0)})
    write_model(tmp_path / "b.safetensors", 2, change={key: torch.full(b, 5.0)})
    models = ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5", "dtype=fp32"]
    assert main(["merge", *models, "--out", "o.safetensors"]) == 0
    assert load_file("o.safetensors")[key].tolist() == (4.5 if a == () else [4.5])


def test_text_encoders_of_other_lengths_are_told_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "a.safetensors", 1)
    write_model(tmp_path / "b.safetensors", 2, change={PROJECTION: torch.zeros(248, 4)})  # LongCLIP's
    said = refused(capsys, "merge", "model_a=a.safetensors", "model_b=b.safetensors", "--out", "o.safetensors")
    assert "is [7, 4] in A (a.safetensors) and [248, 4] in B" in said
    assert said.endswith("; their text encoders differ: to keep A's, give a copy of B without its text encoder\n")
