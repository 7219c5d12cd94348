"""Merges written as diffusers folders, of every family."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.tokenizer import build_tokenizer, write_tokenizer
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError
from tests.command_line import refused
from tests.folders import FAMILIES, single_file, write_folder
from tests.folders import write_file as write_any

# What a family's single files hold that folders have no place for.
EXTRA: dict[str, dict[str, tuple[int, ...]]] = {
    "sd2": {"cond_stage_model.model.logit_scale": (), "cond_stage_model.model.text_projection": (16, 16)},
    "sdxl": {"conditioner.embedders.1.model.logit_scale": ()},
    "sd3": {"text_encoders.clip_l.logit_scale": ()},
}


def write_file(path: Path, family: str, seed: int, extra: dict[str, tuple[int, ...]] | None = None) -> Path:
    return write_any(path, family, seed, dtype=torch.float16, extra=extra)


def write_tree(folder: Path, family: str) -> Path:
    """The settings of a tiny model without its weights; a few words stand for T5's vocabulary."""
    write_folder(folder, family)
    index = json.loads((folder / "model_index.json").read_text())
    for part in [name for name in index if name.startswith("text_encoder")]:
        name = part.replace("text_encoder", "tokenizer")
        if index[part][1] == "T5EncoderModel":
            (folder / name).mkdir()
            (folder / name / "spiece.model").write_bytes(b"words")
            index[name] = ["transformers", "T5Tokenizer"]
        else:
            index[name] = ["transformers", "CLIPTokenizer"]
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "_diffusers_version": "0.21"}
    (folder / "model_index.json").write_text(json.dumps(index))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


def loaded(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The networks' tensors, as diffusers and transformers load them from the folder."""
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    states = {}
    for part in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        if part in index and index[part] != [None, None]:
            library = {"diffusers": diffusers, "transformers": transformers}[index[part][0]]
            network, report = getattr(library, index[part][1]).from_pretrained(
                folder, subfolder=part, torch_dtype=torch.float16, local_files_only=True, output_loading_info=True
            )
            assert not report["missing_keys"]
            assert not report["unexpected_keys"]
            states[part] = dict(network.state_dict())
    return states


def assert_holds(folder: Path, file: Path, but: Any = ()) -> None:
    ours, theirs = single_file(loaded(folder)), load_file(file)
    assert set(theirs) - set(but) == set(ours)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_loads_the_merge_that_a_file_holds(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree, extra = write_tree(tmp_path / "tree", family), EXTRA.get(family, {})
    for seed, name in enumerate("ab"):
        write_file(tmp_path / f"{name}.safetensors", family, seed, extra)
    pair = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.3", "vae=merge"]
    assert main([*pair, "--out", "out.safetensors"]) == 0
    assert main([*pair, "--config", str(tree), "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert_holds(tmp_path / "out", tmp_path / "out.safetensors", extra)
    assert all(key in told for key in extra)
    assert ("left out" in told) == bool(extra)
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    for part in [name for name in index if name.startswith("tokenizer") and index[name][1] == "CLIPTokenizer"]:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "out" / part, local_files_only=True)
        assert tokenizer("a red ring").input_ids[0] == 49406
    assert main(["recipe", "out"]) == 0
    assert "alpha=0.3" in capsys.readouterr().out
    assert main(["merge", "out", "--out", "again.safetensors"]) == 0
    again, first = load_file("again.safetensors"), load_file("out.safetensors")
    assert all(torch.equal(again[key], tensor) for key, tensor in first.items())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_a_folder_as_model_a_lends_its_settings(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", family, 0, dtype=torch.float16)
    tree = write_tree(tmp_path / "tree", family)
    shutil.copy(tree / "model_index.json", "a/model_index.json")
    for tokenizer in tree.glob("tokenizer*"):
        shutil.copytree(tokenizer, tmp_path / "a" / tokenizer.name)
    if family == "sd1":  # a vocabulary of its own is taken over
        write_tokenizer(build_tokenizer("!"), tmp_path / "a" / "tokenizer")
    write_file(tmp_path / "b.safetensors", family, 1)
    pair = ["merge", "model_a=a", "model_b=b.safetensors", "alpha=0.3"]
    assert main([*pair, "--out", "out.safetensors"]) == 0
    assert main([*pair, "--out", "out"]) == 0
    assert_holds(tmp_path / "out", tmp_path / "out.safetensors")
    network = "transformer" if family == "sd3" else "unet"
    assert json.loads(Path(f"out/{network}/config.json").read_text()) == json.loads(
        Path(f"a/{network}/config.json").read_text()
    )
    if family == "sd1":
        assert Path("out/tokenizer/tokenizer.json").read_bytes() == Path("a/tokenizer/tokenizer.json").read_bytes()
    capsys.readouterr()
    assert "holds model" in refused(capsys, *pair, "--overwrite", "--out", "a")
    assert Path("a/unet").exists() or Path("a/transformer").exists()
    assert "is read for what would be written" in refused(
        capsys, *pair, "--overwrite", "--out", f"a/{network}/diffusion_pytorch_model.safetensors"
    )


@pytest.mark.slow
def test_a_merged_folder_can_be_merged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", "sd1", 0)
    write_folder(tmp_path / "b", "sd1", 1)
    assert main(["merge", "model_a=a", "model_b=b", "alpha=0.3", "--out", "ab"]) == 0
    assert main(["merge", "model_a=ab", "model_b=b", "alpha=0", "--out", "same.safetensors"]) == 0
    assert main(["merge", "model_a=a", "model_b=b", "alpha=0.3", "--out", "first.safetensors"]) == 0
    first, same = load_file("first.safetensors"), load_file("same.safetensors")
    assert first.keys() == same.keys()
    assert all(torch.equal(same[key], tensor) for key, tensor in first.items())


@pytest.mark.slow
def test_a_transformer_alone_says_what_the_folder_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = write_tree(tmp_path / "tree", "flux")
    for seed, name in enumerate("ab"):
        tensors = load_file(write_file(tmp_path / "whole.safetensors", "flux", seed))
        start = "model.diffusion_model."  # one of them without it, as these are given away
        cut = start if name == "a" else ""
        save_file({k.removeprefix(cut): t for k, t in tensors.items() if k.startswith(start)}, f"{name}.safetensors")
    pair = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.3"]
    assert main([*pair, "--out", "out.safetensors"]) == 0
    assert "double_blocks.0.img_attn.qkv.weight" in load_file("out.safetensors")
    assert main([*pair, "--config", str(tree), "--out", "out"]) == 0
    told = capsys.readouterr().out
    for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        assert f"{part}=..." in told
    theirs = {f"model.diffusion_model.{key}": tensor for key, tensor in load_file("out.safetensors").items()}
    ours = single_file(loaded(tmp_path / "out"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_t5_needs_a_vocabulary_from_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = write_tree(tmp_path / "tree", "flux")
    shutil.rmtree(tree / "tokenizer_2")
    for seed, name in enumerate("ab"):
        write_file(tmp_path / f"{name}.safetensors", "flux", seed)
    pair = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.3"]
    for config in ([], ["--config", str(tree)]):
        errors = refused(capsys, *pair, *config, "--out", "out")
        assert "tokenizer_2 (T5" in errors
        assert "--config FOLDER" in errors
    assert not Path("out").exists()


def test_settings_of_another_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    xl, sd1 = write_tree(tmp_path / "xl", "sdxl"), write_tree(tmp_path / "sd1", "sd1")
    for seed, name in enumerate("ab"):
        write_file(tmp_path / f"{name}.safetensors", "sd1", seed)
    pair = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.3", "--out", "out"]
    assert "of the kind sdxl" in refused(capsys, *pair, "--config", str(xl))
    assert "--config FOLDER" in refused(capsys, *pair)  # the official size is another
    (sd1 / "vae" / "config.json").write_text("[")
    assert "vae/config.json: is not JSON" in refused(capsys, *pair, "--config", str(sd1))
    (sd1 / "vae" / "config.json").unlink()
    assert "vae/config.json: no such file" in refused(capsys, *pair, "--config", str(sd1))
    (sd1 / "model_index.json").write_text('{"unet": ["os", "system"], "vae": [null]}')
    assert "not a library and a class" in refused(capsys, *pair, "--config", str(sd1))
    (sd1 / "model_index.json").write_text('{"unet": ["os", "system"]}')
    assert "only Stable Diffusion and Flux" in refused(capsys, *pair, "--config", str(sd1))
    assert not Path("out").exists()


@pytest.mark.slow
def test_the_scheduler_is_told_what_the_model_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = write_tree(tmp_path / "tree", "sdxl")
    for seed, name in enumerate("ab"):
        write_file(tmp_path / f"{name}.safetensors", "sdxl", seed, {"v_pred": (0,), "ztsnr": (0,)})
    pair = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.3", "--config", str(tree)]
    assert main([*pair, "--out", "out"]) == 0
    settings = json.loads(Path("out/scheduler/scheduler_config.json").read_text())
    assert settings["prediction_type"] == "v_prediction"
    assert settings["rescale_betas_zero_snr"] is True
    assert settings["timestep_spacing"] == "trailing"


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bayes_merger.checkpoints.opening import open_checkpoint
    from bayes_merger.merging.export.diffusers_folder import save_folder
    from bayes_merger.merging.recipe.recipe import MergeRecipe

    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "a", "sd1")
    with open_checkpoint(folder) as model:
        weights = {"alpha": dict.fromkeys(model.architecture.blocks, 0.3)}
        recipe = MergeRecipe(models={}, weights=weights, architecture="sd1")
        with pytest.raises(CheckpointError, match="there is no folder"):
            save_folder(recipe, {"a": model, "b": model}, tmp_path / "no" / "where")

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            save_folder(recipe, {"a": model, "b": model}, tmp_path / "out", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_what_the_models_say_goes_before_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, said in (("v", "v_prediction"), ("noise", "epsilon")):
        write_folder(tmp_path / name, "sd2")
        file = tmp_path / name / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": said}))
    write_file(tmp_path / "unsaid.safetensors", "sd2", 1)
    for models, config, said in (("v", "noise", "v_prediction"), ("noise", "v", "epsilon")):
        pair = ["merge", "model_a=unsaid.safetensors", f"model_b={models}", "alpha=1", "--config", config]
        assert main([*pair, "--overwrite", "--out", "out"]) == 0
        assert json.loads(Path("out/scheduler/scheduler_config.json").read_text())["prediction_type"] == said


def test_a_folder_of_links_is_a_model_that_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "repository" / "blobs" / "all", "sd1")
    snapshot = tmp_path / "repository" / "snapshots" / "0123"
    for file in (tmp_path / "repository" / "blobs" / "all").rglob("*.*"):
        link = snapshot / file.relative_to(tmp_path / "repository" / "blobs" / "all")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    pair = ["merge", f"model_a={snapshot}", f"model_b={snapshot}", "alpha=0.3", "--overwrite", "--out"]
    assert "holds model" in refused(capsys, *pair, str(snapshot))
    assert "is read for what would be written" in refused(
        capsys, *pair, str(snapshot / "model_index.json"), "--format", "safetensors"
    )
    assert main([*pair, "out"]) == 0
    Path("linked").symlink_to("out")
    assert main([*pair, "linked"]) == 0
    assert Path("linked").is_symlink()
    Path("out/notes.txt").write_text("mine")
    assert "holds notes.txt beside a model" in refused(capsys, *pair, "out")
    assert Path("out/notes.txt").exists()


def test_a_link_out_of_a_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "deep" / "er" / "a", "sd1")
    write_tokenizer(build_tokenizer(), tmp_path / "deep" / "er" / "a" / "tokenizer")
    Path("secret").write_text('{"password": "secret"}')
    pair = ["merge", "model_a=deep/er/a", "model_b=deep/er/a", "alpha=0.3", "--out", "out"]
    for name in ("tokenizer/vocab.json", "vae/config.json"):
        own = Path("deep/er/a", name).read_bytes()
        Path("deep/er/a", name).unlink()
        Path("deep/er/a", name).symlink_to(tmp_path / "secret")
        assert "outside the folder" in refused(capsys, *pair)
        Path("deep/er/a", name).unlink()
        Path("deep/er/a", name).write_bytes(own)
    assert main(pair) == 0


def test_what_dead_processes_left_is_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", "sd1")
    pair = ["merge", "model_a=a", "model_b=a", "alpha=0.3", "--out", "out"]
    assert main(pair) == 0
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    begun, aside = tmp_path / f".out.{dead.pid}.tmp", tmp_path / f".out.{dead.pid}.old"
    (begun / "unet").mkdir(parents=True)
    Path("out").rename(aside)  # as kill -9 between the two renames leaves it
    assert main(pair) == 2  # it is there again, and --overwrite was not said
    assert Path("out/unet").is_dir()
    assert not begun.exists()
    assert not aside.exists()
    again = tmp_path / f".out.{os.getpid()}.tmp" / "unet"
    again.mkdir(parents=True)
    (again / "strange.safetensors").write_bytes(b"")
    assert main([*pair, "--overwrite"]) == 0
    assert not Path("out/unet/strange.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("model_index.json", {"unet": [["diffusers"], "x"]}, "not a library and a class"),
        ("model_index.json", {"unet": "x"}, "not a library and a class"),
        ("model_index.json", {"vae": 5}, "not a library and a class"),
        ("model_index.json", {"tokenizer_x": ["transformers", "CLIPTokenizer"]}, "is not shipped here"),
        ("unet/config.json", {"block_out_channels": [8, 16]}, "makes no UNet2DConditionModel"),
        ("unet/config.json", {"block_out_channels": [10**9] * 4}, "makes no UNet2DConditionModel"),
        ("unet/config.json", {"act_fn": "nope"}, "makes no UNet2DConditionModel"),
        ("text_encoder/config.json", {"hidden_act": "nope"}, "makes no CLIPTextModel"),
        ("text_encoder/config.json", {"num_hidden_layers": "a"}, "makes no CLIPTextModel"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}, "makes no CLIPTextModel"),
        ("text_encoder/config.json", {"num_attention_heads": 0}, "makes no CLIPTextModel"),
    ],
)
def test_damaged_settings_are_one_line(
    file: str,
    change: dict[str, Any],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = write_tree(tmp_path / "tree", "sd1")
    write_file(tmp_path / "a.safetensors", "sd1", 0)
    (tree / file).write_text(json.dumps(json.loads((tree / file).read_text()) | change))
    pair = ["merge", "model_a=a.safetensors", "model_b=a.safetensors", "alpha=0.3", "--out", "out"]
    errors = refused(capsys, *pair, "--config", str(tree))
    assert word in errors
    assert errors.count("\n") == 1
    assert not Path("out").exists()
