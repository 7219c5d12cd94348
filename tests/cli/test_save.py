"""What a merge is written as: its VAE, its averages, eight bits, a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from bayes_merger.merging.models.ema import ema_key
from tests.command_line import planned, refused
from tests.merging.tiny_models import FIRST, TEXT, UNET, VAE, write_model

KEY = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
BIAS = UNET + "input_blocks.1.0.in_layers.2.bias"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for seed, name in ((1, "a"), (2, "b")):
        write_model(tmp_path / f"{name}.safetensors", seed)
    return ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5"]


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_is_baked_in_from_its_own_file(pair: list[str], prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = torch.full((5, 4, 3, 3), 0.25)
    extra = {"loss.logvar": torch.zeros(()), f"{prefix}decoder.unknown.weight": torch.zeros(2)}
    save_file({prefix + "decoder.conv_in.weight": own, **extra}, "vae.safetensors")
    settings = [*pair, "vae=vae.safetensors"]
    assert planned(capsys, *settings)["keys"][VAE]["says"] == ["the VAE is that of vae.safetensors"]
    assert main(["merge", *settings, "--out", "out.safetensors"]) == 0
    merged = load_file("out.safetensors")
    assert torch.equal(merged[VAE], own.half())
    assert set(merged) == set(load_file("a.safetensors"))
    assert main(["merge", "out.safetensors", "--out", "again.safetensors"]) == 0
    assert Path("out.safetensors").read_bytes() == Path("again.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"decoder.conv_in.weight": torch.zeros(5, 4, 1, 3)}, ["shapes differ", "[5, 4, 1, 3]"]),
        ({"encoder.conv_in.weight": torch.zeros(5)}, ["lacks", VAE]),
        ({"lora_unet_x.lora_up.weight": torch.zeros(5)}, ["a LoRA", "no VAE"]),
        ({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(5)}, ["lacks", VAE]),
        ({"decoder.up_blocks.0.nothing.weight": torch.zeros(5)}, ["decoder.up_blocks.0.nothing.weight", "no name"]),
    ],
)
def test_a_vae_that_does_not_fit_is_one_line(
    pair: list[str], tensors: dict[str, torch.Tensor], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(tensors, "vae.safetensors")
    errors = refused(capsys, "merge", *pair, "vae=vae.safetensors", "--out", "out.safetensors")
    for word in ("vae.safetensors", *words):
        assert word in errors
    assert not Path("out.safetensors").exists()


def test_averages_are_dropped_or_merged_like_what_they_are_averages_of(
    pair: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    average = ema_key(KEY)
    assert average == "model_ema.diffusion_modelinput_blocks11transformer_blocks0attn2to_kweight"
    change = {average: torch.full((6, 7), 2.0), "model_ema.decay": torch.tensor(0.5)}
    write_model(Path("a.safetensors"), 1, change=change)
    settings = [*pair, "elements=IN01:attn2:0.25"]
    assert planned(capsys, *settings)["keys"][average]["action"] == "drop"
    assert main(["merge", *settings, "ema=keep", "--out", "kept.safetensors"]) == 0
    kept, b = load_file("kept.safetensors"), load_file("b.safetensors")
    # B has no averages: its own weights stand for them
    assert torch.equal(kept[average], torch.lerp(torch.full((6, 7), 2.0), b[KEY].float(), 0.25).half())
    assert float(kept["model_ema.decay"]) == 0.5
    assert "has no averages" in refused(
        capsys, "merge", "model_a=b.safetensors", "model_b=a.safetensors", "ema=keep", "--out", "x.safetensors"
    )
    assert "'all' is unknown" in refused(capsys, "merge", *pair, "ema=all", "--out", "x.safetensors")


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3fn", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_eight_bits_are_for_the_matrices_of_the_u_net(
    pair: list[str], name: str, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *pair, f"dtype={name}", "--out", "small.safetensors"]) == 0
    small = load_file("small.safetensors")
    assert {key: small[key].dtype for key in (KEY, FIRST, BIAS, TEXT, VAE)} == {
        KEY: dtype, FIRST: dtype, BIAS: torch.float16, TEXT: torch.float16, VAE: torch.float16,
    }  # fmt: skip
    a, b = load_file("a.safetensors"), load_file("b.safetensors")
    assert torch.equal(small[KEY].float(), torch.lerp(a[KEY].float(), b[KEY].float(), 0.5).to(dtype).float())
    write_model(Path("a.safetensors"), 1, torch.float32, change={KEY: torch.full((6, 7), 1e6)})
    errors = refused(capsys, "merge", *pair, f"dtype={name}", "--out", "x.safetensors")
    assert KEY in errors
    assert not Path("x.safetensors").exists()


def test_adjustments_and_clipping_are_in_the_file_and_its_recipe(
    pair: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*pair, "alpha=2", "clip=hard", "adjust=10,0,0,0,0,0,0,0"]
    assert main(["merge", *settings, "--out", "out.safetensors"]) == 0
    a, b, merged = load_file("a.safetensors"), load_file("b.safetensors"), load_file("out.safetensors")
    assert torch.equal(merged[KEY], b[KEY])
    assert torch.equal(merged[FIRST], (b[FIRST].float() * 0.9).half())
    assert torch.equal(merged[VAE], a[VAE])
    capsys.readouterr()
    assert main(["recipe", "out.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "adjust=10,0,0,0,0,0,0,0" in shown
    assert "clip: hard" in shown
    assert main(["merge", "out.safetensors", "--out", "again.safetensors"]) == 0
    assert Path("out.safetensors").read_bytes() == Path("again.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["plan", *pair, "--diff", "out.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "after the method: nothing here, clip: every number stays between A's and B's (hard); adjust: IN 10" in shown
    assert main(["plan", *settings]) == 0
    assert "then adjust: IN 10" in capsys.readouterr().out
    for wrong, word in (("clip=had", "had"), ("adjust=1,2", "eight numbers"), ("adjust=x,0,0,0,0,0,0,0", "'x'")):
        assert word in refused(capsys, "plan", *pair, wrong)


@pytest.mark.slow
def test_a_merge_is_written_as_a_folder_that_diffusers_loads(
    tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import StableDiffusionPipeline

    from bayes_merger.imaging.pipelines.keymap import single_file_views

    pair = [f"model_a={tiny_a}", f"model_b={tiny_b}", "alpha=0.3"]
    folder, file = tmp_path / "merged", tmp_path / "merged.safetensors"
    assert main(["merge", *pair, "--config", str(tiny_sd1_config), "--out", str(folder)]) == 0
    assert main(["merge", *pair, "--out", str(file)]) == 0
    assert "a diffusers folder" in capsys.readouterr().out
    pipe = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True, torch_dtype=torch.float16)
    single = load_file(file)
    views = single_file_views(pipe)
    assert len(views) == 1130
    for key, tensor in views.items():
        assert torch.equal(tensor, single[key].reshape(tensor.shape)), key
    assert pipe.tokenizer("a red ring").input_ids[0] == 49406
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config["cross_attention_dim"] == 8
    for arguments, word in (
        (["merge", *pair, "--out", str(folder)], "exists"),
        (["merge", *pair, "--out", str(tmp_path / "other")], "--config"),
        (["merge", *pair, "dtype=fp8_e5m2", "--out", str(tmp_path / "other")], "fp8_e5m2"),
        (["merge", *pair, "--as-lora", "rank=2", "--out", str(tmp_path / "other")], "one file"),
        (["merge", *pair, "--overwrite", "--config", str(tiny_sd1_config), "--format", "diffusers", "--out", str(tiny_a.parent)], "is not a diffusers folder"),
    ):  # fmt: skip
        capsys.readouterr()
        assert word in refused(capsys, *arguments)
    assert not (tmp_path / "other").exists()
    assert main(["merge", *pair, "--config", str(tiny_sd1_config), "--overwrite", "--out", str(folder)]) == 0
