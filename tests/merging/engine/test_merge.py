from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.errors import CheckpointError
from bayes_merger.merging import METHODS, SD1, MergeRecipe, merge, method_spec, open_checkpoint, save_merge
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.engine.statistics import with_model_statistics
from tests.merging.tiny_models import (
    FIRST,
    IDS,
    PROJECTION,
    TEXT,
    UNET,
    VAE,
    even,
    opened,
    recipe_of,
    tensors_of,
    uneven,
    write_model,
)

NAMES = sorted(METHODS)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("method", NAMES)
def test_every_tensor_is_merged_with_the_weights_of_its_block(tmp_path: Path, method: str) -> None:
    spec = method_spec(method)
    models = opened(tmp_path, len(spec.models))
    weights = uneven(method)
    recipe = recipe_of(models, weights, method)
    merged = dict(merge(recipe, models))
    function = with_model_statistics(spec, models, plan(recipe, models).items).function
    a = tensors_of(1)
    for key, tensor in merged.items():
        place = SD1.place(key)
        if place.role == "block":
            sources = [tensors_of(seed)[key].float() for seed in range(1, len(models) + 1)]
            numbers = {name: blocks[place.block or ""] for name, blocks in weights.items()}
            named = {"key": key} if spec.keyed else {}
            assert torch.equal(tensor, function(*sources, **numbers, **named).half()), key
        elif place.role == "vae":
            assert torch.equal(tensor, a[key])


def test_alpha_0_is_a_and_alpha_1_is_b_bit_for_bit(tmp_path: Path) -> None:
    models = opened(tmp_path)
    for text, seed in (("0", 1), ("1", 2)):
        merged = dict(merge(recipe_of(models, even(text), vae="merge"), models))
        assert all(torch.equal(merged[key], tensor) for key, tensor in tensors_of(seed).items())


def test_a_slot_of_its_own_moves_only_its_tensors(tmp_path: Path) -> None:
    models = opened(tmp_path)
    weights = even("0")
    weights["alpha"] = weights["alpha"] | {"TE": 1.0}
    merged = dict(merge(recipe_of(models, weights), models))
    assert torch.equal(merged[TEXT], tensors_of(2)[TEXT])
    assert torch.equal(merged[UNET + "time_embed.0.weight"], tensors_of(1)[UNET + "time_embed.0.weight"])


def test_position_ids_are_counted_anew(tmp_path: Path) -> None:
    models = opened(tmp_path)
    broken = {IDS: torch.tensor([[0, 1, 2.996, 4, 4, 5, 6]])}
    models["a"] = open_checkpoint(write_model(tmp_path / "broken.safetensors", 1, change=broken))
    merged = dict(merge(recipe_of(models), models))
    assert torch.equal(merged[IDS], torch.arange(7).reshape(1, 7))


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_models_of_mixed_dtypes_are_merged_into_the_one_asked_for(tmp_path: Path, dtype: str) -> None:
    models = {
        "a": open_checkpoint(write_model(tmp_path / "a.safetensors", 1, torch.float32)),
        "b": open_checkpoint(write_model(tmp_path / "b.safetensors", 2, torch.bfloat16)),
    }
    merged = dict(merge(recipe_of(models, even("0.3"), dtype=dtype), models))
    wanted = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    expected = torch.lerp(tensors_of(1, torch.float32)[FIRST], tensors_of(2, torch.bfloat16)[FIRST].float(), 0.3)
    assert torch.equal(merged[FIRST], expected.to(wanted))
    assert torch.equal(merged[VAE], tensors_of(1, torch.float32)[VAE].to(wanted))


def test_a_file_holds_the_merge_and_says_what_it_is(tmp_path: Path) -> None:
    models = opened(tmp_path)
    recipe = recipe_of(models, even("0.3"))
    save_merge(recipe, models, tmp_path / "out.safetensors", metadata={"note": "mine"})
    written = load_file(tmp_path / "out.safetensors")
    expected = dict(merge(recipe, models))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in written)
    with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
        about = checkpoint.metadata
    assert about["note"] == "mine"
    assert about["modelspec.architecture"] == "stable-diffusion-v1"
    assert about["modelspec.title"] == "a + b (weighted_sum)"
    short = json.loads(about["sd_merge_recipe"])
    assert (short["type"], short["primary_model_hash"]) == ("bayes-merger", models["a"].sha256())
    assert json.loads(about["sd_merge_models"])[models["b"].sha256()]["name"] == "b.safetensors"
    own = MergeRecipe.from_json(json.loads(about["bayes_merger.recipe"]))
    assert (own.weights, own.method, own.dtype) == (recipe.weights, "weighted_sum", "fp16")
    assert str(tmp_path) not in "".join(about.values())  # merged files are given away


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", ["bf16", "fp32", None])
@pytest.mark.parametrize(
    "method", ["weighted_sum", "add_difference", "multiply_difference", "dropout", "slerp", "ties"]
)
def test_a_tensor_of_many_pieces_is_written_as_it_is_merged(tmp_path: Path, method: str, dtype: str | None) -> None:
    big = {seed: torch.randn(1031, 511, generator=torch.Generator().manual_seed(seed)).half() for seed in (1, 2, 3)}
    models = {
        name: open_checkpoint(write_model(tmp_path / f"{name}.safetensors", seed, change={TEXT: big[seed]}))
        for seed, name in enumerate("abc"[: len(method_spec(method).models)], start=1)
    }
    recipe = recipe_of(models, uneven(method), method, dtype)
    out = tmp_path / "merged.safetensors"
    save_merge(recipe, models, out)
    written = load_file(out)
    assert all(torch.equal(written.pop(key), tensor) for key, tensor in merge(recipe, models))
    assert not written


def test_a_model_cut_short_while_it_is_open_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    models = opened(tmp_path)
    recipe = recipe_of(models)
    with models["b"].path.open("r+b") as file:
        file.truncate(models["b"].path.stat().st_size - 2000)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"b\.safetensors: cannot be read \(it was cut short while it was open"):
        save_merge(recipe, models, tmp_path / "merged.safetensors")
    assert sorted(tmp_path.iterdir()) == before


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    models = opened(tmp_path)
    for name in ("1", "2"):
        save_merge(recipe_of(models, even("0.3")), models, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_merge_of_merges_remembers_its_grandparents(tmp_path: Path) -> None:
    models = opened(tmp_path)
    save_merge(recipe_of(models), models, tmp_path / "child.safetensors")
    second = {"a": open_checkpoint(tmp_path / "child.safetensors"), "b": models["b"]}
    save_merge(recipe_of(second), second, tmp_path / "grandchild.safetensors")
    with open_checkpoint(tmp_path / "grandchild.safetensors") as checkpoint:
        family = json.loads(checkpoint.metadata["sd_merge_models"])
    assert {about["name"] for about in family.values()} == {"a.safetensors", "b.safetensors", "child.safetensors"}
    assert family[second["a"].sha256()]["sd_merge_recipe"]["type"] == "bayes-merger"


def test_odd_metadata_of_a_parent_does_not_matter(tmp_path: Path) -> None:
    models = opened(tmp_path)
    odd = {"sd_merge_models": "[1", "sd_merge_recipe": "7"}
    models["a"] = open_checkpoint(write_model(tmp_path / "odd.safetensors", 1, metadata=odd))
    save_merge(recipe_of(models), models, tmp_path / "out.safetensors")


def test_an_overflow_names_its_tensor_and_nothing_is_written(tmp_path: Path) -> None:
    models = opened(tmp_path)
    models["b"] = open_checkpoint(write_model(tmp_path / "big.safetensors", 2, change={TEXT: torch.full((11, 4), 6e4)}))
    with pytest.raises(CheckpointError, match=f"'{TEXT}' would hold infinity.*dtype=fp32"):
        save_merge(recipe_of(models, even("2")), models, tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))
    save_merge(recipe_of(models, even("2"), dtype="fp32"), models, tmp_path / "out.safetensors")


@pytest.mark.parametrize(("number", "words"), [("nan", "NaN"), ("inf", "infinity")])
def test_a_model_that_is_broken_itself_is_named(number: str, words: str, tmp_path: Path) -> None:
    models = opened(tmp_path)
    change = {TEXT: torch.full((11, 4), float(number))}
    models["b"] = open_checkpoint(write_model(tmp_path / "broken.safetensors", 2, change=change))
    with pytest.raises(CheckpointError, match=rf"not written, model \S*broken.safetensors holds {words} in '{TEXT}'"):
        save_merge(recipe_of(models, even("0.5")), models, tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))


def test_a_merge_is_not_written_over_its_models_or_unasked(tmp_path: Path) -> None:
    models = opened(tmp_path)
    before = models["a"].path.read_bytes()
    with pytest.raises(CheckpointError, match="is read for what would be written"):
        save_merge(recipe_of(models), models, models["a"].path, replace=True)
    assert models["a"].path.read_bytes() == before
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="exists already"):
        save_merge(recipe_of(models), models, out)
    save_merge(recipe_of(models), models, out, replace=True)
    assert open_checkpoint(out).shapes[PROJECTION] == (7, 4)


def test_one_file_may_be_both_models(tmp_path: Path) -> None:
    a = opened(tmp_path)["a"]
    merged = dict(merge(recipe_of({"a": a, "b": a}, even("0.3")), {"a": a, "b": a}))
    assert all(torch.equal(merged[key], tensor) for key, tensor in tensors_of(1).items())
