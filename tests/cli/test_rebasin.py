"""``rebasin``: what it says, and the one line for what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from tests.command_line import refused
from tests.folders import write_file
from tests.merging.rebasin.models import scrambled
from tests.user_folder import command, make_workplace

MIDDLE = "model.diffusion_model.middle_block.0.in_layers.2.weight"


def test_it_says_how_much_moved_and_that_nothing_is_to_be_gained(
    tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, order = scrambled(tiny_a, tiny_sd1_config, tmp_path / "lost.safetensors")
    out, config = tmp_path / "out.safetensors", ["--config", str(tiny_sd1_config)]
    assert main(["rebasin", str(tiny_a), str(lost), "--out", str(out), *config]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"moved {order.moved():,} of 3,")
    assert first.endswith(", now 1.0000")
    assert second == f"wrote {out}; it draws what B draws"
    assert "--overwrite" in refused(capsys, "rebasin", str(tiny_a), str(lost), "--out", str(out), *config)
    before = out.read_bytes()
    assert main(["rebasin", str(tiny_a), str(out), "--out", str(tmp_path / "no.safetensors"), *config]) == 0
    said = capsys.readouterr().out
    assert said.startswith("0 of 3,")
    assert "likeness of their weights 1.0000); nothing is to be gained" in said
    assert not (tmp_path / "no.safetensors").exists()
    assert out.read_bytes() == before


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_a: Path) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_file(folder / "xl.safetensors", "sdxl")
    write_file(folder / "flux.safetensors", "flux")
    write_file(folder / "other.safetensors", "sd1")
    lora = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{lora}.lora_up.weight": torch.ones(8, 1), f"{lora}.lora_down.weight": torch.ones(1, 8)},
        folder / "lora.safetensors",
    )
    tensors = load_file(tiny_a)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(tensors | {first: torch.ones(8, 9, 3, 3).half()}, folder / "inpainting.safetensors")
    save_file({key: t for key, t in tensors.items() if "middle_block" not in key}, folder / "part.safetensors")
    save_file(tensors | {MIDDLE: torch.full_like(tensors[MIDDLE], torch.nan)}, folder / "nan.safetensors")
    save_file(tensors | {MIDDLE: tensors[MIDDLE].float().sign() * 3e38}, folder / "large.safetensors")
    (folder / "text.safetensors").write_text("no model")
    return folder


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "there is no such file"),
        ("text", "text.safetensors"),
        ("lora", "lora.safetensors: a LoRA, which has no neurons of its own; give a whole checkpoint"),
        (
            "flux",
            "flux.safetensors: a Flux checkpoint; the neurons of Stable Diffusion 1, 2 and XL can be put in order",
        ),
        ("xl", "xl.safetensors is a Stable Diffusion XL checkpoint and a.safetensors is a Stable Diffusion 1.x"),
        ("inpainting", "inpainting.safetensors is a Stable Diffusion 1.x checkpoint for inpainting and a.safe"),
        ("part", "part.safetensors: a checkpoint with parts of its U-Net missing"),
        ("nan", f"tensor '{MIDDLE}' holds NaN"),
        ("large", ": the weights are too large to be compared; one of these models is broken"),
        ("other", "give two models of one size"),
    ],
)
def test_models_that_cannot_be_aligned_are_one_line(
    files: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    out = files / "out.safetensors"
    arguments = [str(tiny_a), str(files / f"{name}.safetensors"), "--out", str(out), "--config", str(tiny_sd1_config)]
    assert said in refused(capsys, "rebasin", *arguments)
    if name != "nan":  # which a merge finds as it writes
        models = [f"model_a={tiny_a}", f"model_b={files / name}.safetensors"]
        given = ["rebasin.b.to=a", f"rebasin.b.config={tiny_sd1_config}"]
        assert said in refused(capsys, "merge", *models, *given, "--out", str(out))
    assert not out.exists()


def test_a_merge_takes_no_rebasin_that_is_no_table(tiny_a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"model_a={tiny_a}", f"model_b={tiny_a}"]
    said = refused(capsys, "merge", *models, "rebasin=a", "--out", "x.safetensors")
    assert "rebasin is a table; give  rebasin.b=a" in said


def test_a_config_of_another_size_and_places_that_do_not_exist(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["rebasin", str(tiny_a), str(tiny_b)]
    assert "give the diffusers folder" in refused(capsys, *models, "--out", str(tmp_path / "x.safetensors"))
    assert "there is no folder" in refused(capsys, *models, "--out", str(tmp_path / "no" / "x.safetensors"))
    assert "--out" in refused(capsys, *models)
    (tmp_path / "config").mkdir()
    config = ["--config", str(tmp_path / "config")]
    assert "config" in refused(capsys, *models, "--out", str(tmp_path / "x.safetensors"), *config)


def search(folder: Path, name: str, a: Path, b: Path | str) -> None:
    few = ["init_points=2", "n_iters=0", "final.images=0", f"model_a={a}", f"model_b={b}"]
    result = command(folder, "run", "experiment=tiny", f"name={name}", "rebasin.b=a", *few)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_run_searches_with_b_in_the_order_of_a_and_its_best_merge_is_made_again(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    folder = make_workplace(tmp_path, tiny_sd1_config)
    search(folder, "lost", tiny_a, tiny_b)
    assert command(folder, "merge", "lost", "--out", "again.safetensors").returncode == 0
    assert (folder / "again.safetensors").read_bytes() == (folder / "runs" / "lost" / "best.safetensors").read_bytes()
    assert "rebasin: b in the order of a, by weights" in command(folder, "recipe", "again.safetensors").stdout


@pytest.mark.slow
def test_a_scrambled_b_gives_the_same_pictures_and_its_study_goes_on(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    folder = make_workplace(tmp_path, tiny_sd1_config)
    scrambled(tiny_b, tiny_sd1_config, folder / "lost.safetensors")
    search(folder, "lost", tiny_a, "lost.safetensors")
    search(folder, "known", tiny_a, tiny_b)
    # B and the scrambled B are one model in A's order
    scores = [[trial["value"] for trial in json.loads(command(folder, "show", name, "--json").stdout)["trials_list"]]
              for name in ("lost", "known")]  # fmt: skip
    assert scores[0] == scores[1]
    gone_on = command(folder, "resume", "lost", "n_iters=1")
    assert gone_on.returncode == 0, gone_on.stderr
