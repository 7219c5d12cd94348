"""Text encoders under names of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.cli import main
from tests.merging.tiny_models import UNET, tensors_of

OURS = "conditioner.embedders.1.model."
BLOCK, LAYER = "transformer.resblocks.0.", "text_model.encoder.layers.0."


def theirs(prefix: str) -> dict[str, Tensor]:
    rows = {f"{LAYER}self_attn.{x}_proj.weight": torch.full((2, 2), float(i)) for i, x in enumerate("qkv")}
    others = {
        f"{LAYER}mlp.fc1.weight": torch.full((4, 2), 5.0),
        "text_model.final_layer_norm.bias": torch.tensor([6.0, 7.0]),
        "text_projection.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    }
    return {prefix + name: tensor for name, tensor in (rows | others).items()}


def xl(texts: dict[str, Tensor]) -> dict[str, Tensor]:
    network = {
        f"{UNET}{part}_blocks.{i}.0.in_layers.2.weight": torch.ones(2, 2)
        for i in range(9)
        for part in ("input", "output")
    }
    network |= {
        f"{UNET}middle_block.0.in_layers.2.weight": torch.ones(2, 2),
        f"{UNET}label_emb.0.0.weight": torch.ones(2, 2),
    }
    beside = {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": torch.tensor([8.0, 9.0])}
    return network | beside | texts  # fmt: skip


WANTED = {
    f"{OURS}{BLOCK}attn.in_proj_weight": [[0, 0], [0, 0], [1, 1], [1, 1], [2, 2], [2, 2]],
    f"{OURS}{BLOCK}mlp.c_fc.weight": [[5, 5]] * 4,
    f"{OURS}ln_final.bias": [6, 7],
    f"{OURS}text_projection": [[1, 3], [2, 4]],
}


@pytest.mark.parametrize("prefix", ["conditioner.embedders.1.transformer.", OURS])
def test_they_are_seen_under_open_clip_s_own(prefix: str, tmp_path: Path) -> None:
    save_file(xl(theirs(prefix)), tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as model:
        assert model.architecture.name == "sdxl"
        assert {key for key in model.shapes if key.startswith("conditioner.embedders.1.")} == set(WANTED)
        for key, numbers in WANTED.items():
            assert model.tensor(key).tolist() == numbers
            assert model.shapes[key] == tuple(model.tensor(key).shape)


def test_both_names_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(xl(theirs("conditioner.embedders.1.transformer.")), "a.safetensors")
    save_file(
        xl({key: torch.zeros_like(torch.tensor(n, dtype=torch.float32)) for key, n in WANTED.items()}), "b.safetensors"
    )
    for first, second in ("ab", "ba"):
        models = [f"model_a={first}.safetensors", f"model_b={second}.safetensors"]
        assert main(["merge", *models, "alpha=0.5", "--out", "o.safetensors", "--overwrite"]) == 0
        made = load_file("o.safetensors")
        assert {key: (made[key] * 2).tolist() for key in WANTED} == WANTED


def test_the_encoder_of_stable_diffusion_2_is_open_clip_s(tmp_path: Path) -> None:
    wide = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    network = {key: tensor for key, tensor in tensors_of(1).items() if not key.startswith("cond_stage_model.")}
    save_file(
        network | {wide: torch.ones(6, 1024)} | theirs("cond_stage_model.transformer."), tmp_path / "m.safetensors"
    )
    with open_checkpoint(tmp_path / "m.safetensors") as model:
        assert model.architecture.name == "sd2"
        assert model.tensor("cond_stage_model.model.ln_final.bias").tolist() == [6, 7]
        assert model.tensor("cond_stage_model.model.text_projection").tolist() == [[1, 3], [2, 4]]


def test_a_stack_with_a_hole_or_of_several_dtypes_is_left_as_it_is(tmp_path: Path) -> None:
    texts = theirs(OURS)
    key = f"{OURS}{LAYER}self_attn.k_proj.weight"
    for change in ({key: texts[key].half()}, {}):
        save_file(xl({k: t for k, t in texts.items() if k != key} | change), tmp_path / "m.safetensors")
        with open_checkpoint(tmp_path / "m.safetensors") as model:
            assert f"{OURS}{BLOCK}attn.in_proj_weight" not in model.shapes
            assert f"{OURS}{LAYER}self_attn.q_proj.weight" in model.shapes


@pytest.mark.parametrize("start", ["text_encoders.", "cond_stage_model.", ""])
def test_comfyui_s_names_of_encoders_are_seen_under_those_of_official_files(start: str, tmp_path: Path) -> None:
    texts = theirs(f"{start}clip_g.transformer.") | {
        f"{start}clip_g.logit_scale": torch.tensor(3.0),
        f"{start}clip_l.logit_scale": torch.tensor(2.0),
        f"{start}clip_l.transformer.text_model.final_layer_norm.weight": torch.tensor([4.0, 5.0]),
    }
    save_file(xl(texts), tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as model:
        assert not [key for key in model.shapes if "clip_" in key]
        for key, numbers in WANTED.items():
            assert model.tensor(key).tolist() == numbers
        assert model.tensor(f"{OURS}logit_scale").item() == 3
        assert model.tensor("conditioner.embedders.0.logit_scale").item() == 2
        assert model.tensor(
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"
        ).tolist() == [4, 5]  # fmt: skip
    network = {key: tensor for key, tensor in tensors_of(1).items() if not key.startswith("cond_stage_model.")}
    save_file(network | theirs(f"{start}clip_l.transformer."), tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as model:
        assert model.architecture.name == "sd1"
        assert model.tensor("cond_stage_model.transformer.text_model.final_layer_norm.bias").tolist() == [6, 7]


@pytest.mark.parametrize(
    "prefix",
    [
        "cond_stage_model.transformer.",
        "cond_stage_model.clip_l.transformer.",
        "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.transformer.",
        "text_encoders.clip_g.transformer.",
        "clip_l.transformer.",
    ],
)
def test_clip_is_found_without_text_model_in_its_names(prefix: str, tmp_path: Path) -> None:
    names = ("embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.bias", "final_layer_norm.weight")
    other = {"text_encoders.t5xxl.transformer.encoder.final_layer_norm.weight": torch.ones(2)}
    save_file({prefix + name: torch.ones(2) for name in names} | other, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert set(checkpoint.keys()) == {f"{prefix}text_model.{name}" for name in names} | other.keys()


def test_clip_without_text_model_in_its_names_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"
    save_file(xl(theirs("conditioner.embedders.1.transformer.")), "a.safetensors")
    changed = load_file("a.safetensors")
    changed[key.replace("text_model.", "")] = changed.pop(key) + 2
    save_file(changed, "b.safetensors")
    models = ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5"]
    assert main(["merge", *models, "--out", "o.safetensors"]) == 0
    assert load_file("o.safetensors")[key].tolist() == [9.0, 10.0]
