"""Diffusers folders as models of a merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.export.single_file import save_merge
from bayes_merger.merging.recipe.recipe import MergeRecipe
from tests.folders import FAMILIES, write_file, write_folder

QUERY = "unet/diffusion_pytorch_model.safetensors"


def assert_same(folder: Path, file: Path) -> None:
    with open_checkpoint(folder) as ours, open_checkpoint(file) as theirs:
        assert ours.kind == theirs.kind
        assert dict(ours.shapes) == dict(theirs.shapes)
        assert dict(ours.dtypes) == dict(theirs.dtypes)
        for key in theirs.shapes:
            assert torch.equal(ours.tensor(key), theirs.tensor(key)), key
            assert ours.tensor(key).is_contiguous()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_the_single_file_of_the_same_model(family: str, tmp_path: Path) -> None:
    folder, file = write_folder(tmp_path / "f", family), write_file(tmp_path / "f.safetensors", family)
    assert_same(folder, file)


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_parts_of_tensors_are_those_of_the_whole(family: str, tmp_path: Path) -> None:
    with open_checkpoint(write_folder(tmp_path / "f", family)) as model:
        assert model.has_parts
        for key in model.shapes:
            whole = model.tensor(key).flatten()
            for begin, count in ((0, whole.numel()), (whole.numel() // 3, whole.numel() // 2), (whole.numel() - 1, 1)):
                out = torch.full((count,), torch.nan)
                model.read_part(key, begin, out)
                assert torch.equal(out, whole[begin : begin + count]), (key, begin, count)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "saving",
    [{"variant": "fp16"}, {"max_shard_size": "400KB"}, {"variant": "fp16", "max_shard_size": "400KB"}, {"safe_serialization": False}],
    ids=["variant", "shards", "shards of a variant", "bin"],
)  # fmt: skip
def test_every_way_to_save_a_folder_is_read(saving: dict[str, Any], tmp_path: Path) -> None:
    if not saving.get("safe_serialization", True):  # transformers 5 writes safetensors only; old folders are like this
        folder = write_folder(tmp_path / "f", "sd1")
        for part in ("unet", "vae", "text_encoder"):
            file = next((folder / part).glob("*.safetensors"))
            name = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
            torch.save(load_file(file), folder / part / f"{name}.bin")
            file.unlink()
    else:
        folder = write_folder(tmp_path / "f", "sd1", **saving)
    assert_same(folder, write_file(tmp_path / "f.safetensors", "sd1"))
    with open_checkpoint(folder) as model:
        read = {".safetensors", ".bin"}
        assert {f for f in folder.rglob("*") if f.suffix in read} == {f for f in model.files if f.suffix in read}
        assert any("fp16" in note for note in model.notes) == ("variant" in saving)


def test_the_plain_file_goes_before_its_variants(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    write_folder(tmp_path / "other", "sd1", seed=5, variant="fp16")
    for part in ("unet", "vae", "text_encoder"):
        for file in (tmp_path / "other" / part).glob("*.safetensors"):
            file.rename(folder / part / file.name)
    assert_same(folder, write_file(tmp_path / "f.safetensors", "sd1"))


def test_the_first_folders_called_the_vaes_attention_otherwise(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for key, t in tensors.items()}
    save_file(tensors, file)
    assert_same(folder, write_file(tmp_path / "f.safetensors", "sd1"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_folders_and_files_merge_to_the_same_bytes(family: str, tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / f"f{seed}", family, seed, dtype=torch.float16) for seed in (1, 2)]
    files = [write_file(tmp_path / f"f{seed}.safetensors", family, seed, dtype=torch.float16) for seed in (1, 2)]
    results = []
    for number, (a, b) in enumerate([(files[0], files[1]), (folders[0], files[1]), (folders[0], folders[1])]):
        with open_checkpoint(a) as model_a, open_checkpoint(b) as model_b:
            layout = model_a.architecture
            recipe = MergeRecipe(
                method="slerp",
                models={},
                weights={"alpha": dict.fromkeys(layout.blocks, 0.3)},
                architecture=layout.name,
                vae="merge",
            )
            save_merge(recipe, {"a": model_a, "b": model_b}, tmp_path / f"{number}.safetensors")
        results.append(load_file(tmp_path / f"{number}.safetensors"))
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        assert all(torch.equal(other[key], tensor) for key, tensor in results[0].items())


def set_scheduler(folder: Path, **settings: Any) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_what_the_scheduler_says_of_the_model_is_known(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "v", "sdxl")
    set_scheduler(folder, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with open_checkpoint(folder) as model:
        assert model.prediction == "v"
        assert {"v_pred", "ztsnr"} <= set(model.shapes)
        assert model.tensor("v_pred").shape == (0,)
    plain = write_folder(tmp_path / "plain", "sdxl")
    with open_checkpoint(folder) as a, open_checkpoint(plain) as b:
        layout = a.architecture
        recipe = MergeRecipe(models={}, weights={"alpha": dict.fromkeys(layout.blocks, 0.3)}, architecture=layout.name)
        with pytest.raises(CheckpointError, match="A predicts v and B noise"):
            plan(recipe, {"a": a, "b": b})
        save_merge(recipe, {"a": a, "b": a}, tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors")["v_pred"].shape == (0,)
    with open_checkpoint(tmp_path / "out.safetensors") as merged:
        assert merged.prediction == "v"


def test_stable_diffusion_2_is_not_merged_across_predictions(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name, "sd2") for name in "ab"]
    set_scheduler(folders[1], prediction_type="v_prediction")
    with open_checkpoint(folders[0]) as a, open_checkpoint(folders[1]) as b:
        layout = a.architecture
        recipe = MergeRecipe(models={}, weights={"alpha": dict.fromkeys(layout.blocks, 0.3)}, architecture=layout.name)
        with pytest.raises(CheckpointError, match="B predicts v and A noise"):
            plan(recipe, {"a": a, "b": b})
        save_merge(recipe, {"a": b, "b": b}, tmp_path / "v.safetensors")
    with open_checkpoint(tmp_path / "v.safetensors") as merged:
        assert merged.metadata["modelspec.prediction_type"] == "v"


def test_the_hash_is_that_of_all_that_is_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    with open_checkpoint(folder) as model:
        first = model.sha256()
    (folder / "model_index.json").write_text("{}")
    with open_checkpoint(folder) as model:
        assert model.sha256() == first
    write_folder(tmp_path / "g", "sd1", seed=1)
    (tmp_path / "g" / "vae" / "diffusion_pytorch_model.safetensors").replace(
        folder / "vae" / "diffusion_pytorch_model.safetensors"
    )
    with open_checkpoint(folder) as model:
        assert model.sha256() != first


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(folder))
    for word in words:
        assert word in text, text


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    refused(folder / "unet", "a part of a diffusers folder")
    refused(tmp_path / "g", "there is no such file; there is f")
    with open_checkpoint(folder / QUERY) as part, pytest.raises(CheckpointError, match="the diffusers folder that it"):
        part.architecture  # noqa: B018
    whole = (folder / QUERY).read_bytes()
    (folder / QUERY).write_bytes(whole[:1000])
    refused(folder, QUERY)
    (folder / QUERY).write_bytes(b"<!doctype html>")
    refused(folder, "a web page")
    (folder / QUERY).rename(folder / "unet" / "weights.safetensors")
    refused(folder, "none of its weight files has a diffusers name")
    (tmp_path / "models--org--name" / "snapshots" / "0123abc").mkdir(parents=True)
    refused(tmp_path / "models--org--name", "a download cache", "there is snapshots/0123abc")
    refused(Path("stabilityai/stable-diffusion-xl-base"), "models are not downloaded")
    (tmp_path / "empty" / "unet").mkdir(parents=True)
    refused(tmp_path / "empty", "without weights")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"down_blocks.0.resnets.0.conv1.weight": None}, []),
        ({"conv_extra.weight": torch.zeros(3)}, ["conv_extra.weight", "has no name"]),
        ({"mid_block.resnets.x.norm1.weight": torch.zeros(3)}, ["has no name"]),
    ],
)
def test_tensors_too_few_or_too_many(change: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    tensors: dict[str, Any] = load_file(folder / QUERY) | change
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, folder / QUERY)
    if words:
        refused(folder, *words)
        return
    with open_checkpoint(folder) as model:
        assert "model.diffusion_model.input_blocks.1.0.in_layers.2.weight" not in model.shapes


def test_a_stack_with_a_hole_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sdxl")
    file = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    for gone in ("q_proj", "v_proj"):
        name = next(key for key in tensors if key.endswith(f"layers.0.self_attn.{gone}.weight"))
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
        refused(folder, "lacks", f"{gone}.weight", "download it again")


@pytest.mark.parametrize(
    ("index", "word"),
    [
        ({"weight_map": {"x": "../../secret.safetensors"}}, "cannot be beside it"),
        ({"weight_map": {"x": "/etc/passwd"}}, "cannot be beside it"),
        ({"weight_map": {"x": "gone.safetensors"}}, "which does not exist"),
        ({"weight_map": {"x": 3}}, "no weight_map"),
        ({"weight_map": {}}, "no weight_map"),
        ([], "not a table"),
    ],
)
def test_an_index_names_files_beside_it_only(index: Any, word: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    (folder / QUERY).unlink()
    (folder / f"{QUERY}.index.json").write_text(json.dumps(index))
    refused(folder, word)
    (folder / f"{QUERY}.index.json").write_text("{" * 10)
    refused(folder, "is not JSON")


def test_a_pickle_in_a_folder_runs_no_code(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    (folder / QUERY).unlink()
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (touched,))

    torch.save({"x": Evil()}, folder / "unet" / "diffusion_pytorch_model.bin")
    refused(folder, "diffusion_pytorch_model.bin")
    assert not touched.exists()


def test_folders_of_other_models_are_refused_by_their_own_name(tmp_path: Path) -> None:
    (tmp_path / "f" / "transformer").mkdir(parents=True)
    save_file({"blocks.0.attn.weight": torch.zeros(3)}, tmp_path / "f/transformer/diffusion_pytorch_model.safetensors")
    (tmp_path / "f" / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    refused(tmp_path / "f", "(WanPipeline)", "no architecture that can be merged")
    (tmp_path / "f" / "model_index.json").write_text('{"_class_name": "x\\n y"}')
    refused(tmp_path / "f", "no architecture that can be merged")


def test_a_transformer_that_lacks_its_last_block_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd3")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({key: t for key, t in tensors.items() if not key.startswith("transformer_blocks.23.ff.")}, file)
    key = "model.diffusion_model.joint_blocks.{}.context_block.adaLN_modulation.1.weight"
    own = "transformer_blocks.{}.norm1_context.linear.weight"
    with open_checkpoint(folder) as model:
        assert torch.equal(model.tensor(key.format(22)), tensors[own.format(22)])
        assert torch.equal(model.tensor(key.format(23)), torch.cat(tensors[own.format(23)].chunk(2)[::-1]))
    save_file({key: t for key, t in tensors.items() if not key.startswith("transformer_blocks.23.")}, file)
    with open_checkpoint(folder) as model, pytest.raises(CheckpointError, match=r"parts missing \(IN23\)"):
        model.architecture  # noqa: B018


@pytest.mark.parametrize(
    ("part", "name", "shape"),
    [
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj.weight", (20, 16)),
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj.weight", (16, 8, 2)),
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj.bias", ()),
        ("text_encoder_2", "text_projection.weight", (16, 8, 2)),
        ("transformer", "norm_out.linear.bias", (15,)),
        ("transformer", "norm_out.linear.bias", ()),
    ],
)
def test_tensors_that_cannot_be_what_they_are_called(
    part: str, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "f", "sd3" if part == "transformer" else "sdxl")
    file = next((folder / part).glob("*.safetensors"))
    save_file(load_file(file) | {name: torch.zeros(shape)}, file)
    refused(folder, name.rpartition(".")[0].replace("k_proj", ""), "cannot be")


def test_the_index_says_which_shard_a_tensor_is_in(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1", max_shard_size="400KB")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    table = json.loads(index.read_text())
    name, shard = next(iter(table["weight_map"].items()))
    other = next(found for found in table["weight_map"].values() if found > shard)
    save_file(load_file(folder / "unet" / other) | {name: torch.zeros(1)}, folder / "unet" / other)
    assert_same(folder, write_file(tmp_path / "f.safetensors", "sd1"))
    table["weight_map"]["conv_in.unheard_of"] = shard
    index.write_text(json.dumps(table))
    refused(folder, shard, "lacks 'conv_in.unheard_of', which its index lists")


def test_one_model_s_word_about_its_prediction_holds_for_the_merge(tmp_path: Path) -> None:
    file = write_file(tmp_path / "unsaid.safetensors", "sd2")
    v = write_folder(tmp_path / "v", "sd2")
    set_scheduler(v, prediction_type="v_prediction")
    with open_checkpoint(file) as a, open_checkpoint(v) as b:
        layout = a.architecture
        recipe = MergeRecipe(models={}, weights={"alpha": dict.fromkeys(layout.blocks, 0.3)}, architecture=layout.name)
        save_merge(recipe, {"a": a, "b": b}, tmp_path / "out.safetensors")
    with open_checkpoint(tmp_path / "out.safetensors") as merged:
        assert merged.prediction == "v"
