"""The VAE of a merge, from a model or a file, by whatever names its attention has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from tests.command_line import refused
from tests.merging.tiny_models import VAE, write_model

ATTENTION = "first_stage_model.decoder.mid.attn_1."
OFFICIAL = ("q.weight", "k.weight", "v.bias", "proj_out.weight", "norm.bias")
MODELS = ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5", "--out", "o.safetensors"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {ATTENTION + name: torch.full((2, 2, 1, 1), float(place)) for place, name in enumerate(OFFICIAL)}
    write_model(tmp_path / "a.safetensors", 1, torch.float32, change=own)


@pytest.mark.parametrize(
    "names",
    [
        ("to_q.weight", "to_k.weight", "to_v.bias", "to_out.0.weight", "group_norm.bias"),
        ("query.weight", "key.weight", "value.bias", "proj_attn.weight", "group_norm.bias"),
        OFFICIAL,
    ],
)
@pytest.mark.parametrize("vae", ["merge", "b", "a", "v.safetensors"])
def test_its_attention_is_merged_and_taken_by_any_name(names: tuple[str, ...], vae: str, tmp_path: Path) -> None:
    theirs = {ATTENTION + name: torch.full((2, 2), 10.0 + place) for place, name in enumerate(names)}
    write_model(tmp_path / "b.safetensors", 2, torch.float32, change=theirs)
    alone = {key: tensor for key, tensor in load_file("b.safetensors").items() if key.startswith("first_stage_model.")}
    save_file(alone, "v.safetensors")
    assert main(["merge", *MODELS, f"vae={vae}"]) == 0
    found = load_file("o.safetensors")
    assert {key for key in found if key.startswith(ATTENTION)} == {ATTENTION + name for name in OFFICIAL}
    shift = {"merge": 5.0, "a": 0.0}.get(vae, 10.0)
    for place, name in enumerate(OFFICIAL):
        assert found[ATTENTION + name].unique().tolist() == [place + shift]


@pytest.mark.parametrize("pickled", [False, True])
def test_its_attention_is_written_as_the_convolutions_that_official_names_are(tmp_path: Path, pickled: bool) -> None:
    names = ("to_q.weight", "to_k.weight", "to_v.bias", "to_out.0.weight", "group_norm.bias")
    theirs = {ATTENTION + name: torch.ones((2, 2) if name.endswith("weight") else 2) for name in names}
    write_model(tmp_path / "b.safetensors", 2, torch.float32, change=theirs)
    if pickled:
        torch.save(load_file("b.safetensors"), "b.safetensors")
    assert main(["merge", "model_a=b.safetensors", "model_b=b.safetensors", "alpha=0.5", "--out", "o.safetensors"]) == 0
    found = {key.removeprefix(ATTENTION): tensor.shape for key, tensor in load_file("o.safetensors").items()}
    assert {name: found[name] for name in OFFICIAL} == {
        name: (2, 2, 1, 1) if name.endswith("weight") else (2,) for name in OFFICIAL
    }


def test_a_model_without_one_cannot_lend_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "b.safetensors", 2, change={VAE: None})
    said = refused(capsys, "merge", *MODELS, "vae=b")
    assert said == "error: vae: model B (b.safetensors) has no VAE; leave it out, or give a file that has one\n"
    assert not Path("o.safetensors").exists()
    write_model(tmp_path / "b.safetensors", 2)
    said = refused(capsys, "merge", *MODELS, "vae=b")
    lacking = "'first_stage_model.decoder.mid.attn_1.k.weight', which model A's has"
    assert said == f"error: vae: the VAE of model B (b.safetensors) lacks {lacking}; give another one\n"


def test_what_training_leaves_beside_it_is_not_asked_of_others(tmp_path: Path) -> None:
    left = {"first_stage_model.loss.logvar": torch.zeros(1), "first_stage_model.model_ema.decay": torch.ones(1)}
    write_model(tmp_path / "a.safetensors", 1, torch.float32, change=left)
    write_model(tmp_path / "b.safetensors", 2, torch.float32)
    save_file({VAE: torch.full((5, 4, 3, 3), 0.25)}, "v.safetensors")
    assert main(["merge", *MODELS, "vae=v.safetensors"]) == 0
    assert load_file("o.safetensors")[VAE].unique().tolist() == [0.25]
    assert main(["merge", *MODELS, "vae=b", "--overwrite"]) == 0
    assert torch.equal(load_file("o.safetensors")[VAE], load_file("b.safetensors")[VAE])
