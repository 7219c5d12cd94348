"""Weights that change nothing: found exactly, for every method; none that changes something is among them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from bayes_merger.merging import SD1, Checkpoint, MergeRecipe, merge, open_checkpoint
from bayes_merger.merging.engine.idle import idle_by_default, idle_weights
from bayes_merger.merging.models.opening import open_each
from bayes_merger.merging.recipe.step_file import free_numbers, read_steps
from tests.merging.tiny_models import SHAPES, UNET, even, tensors_of, write_model
from tests.merging.variants import SAMPLED, Variant, bound, title

BLOCKS = set(SD1.blocks)


def in_blocks(*names: str) -> list[str]:
    return [key for key in SHAPES if SD1.place(key).block in names]


def write(folder: Path, **same: Mapping[str, str]) -> dict[str, Path]:
    """Models A, B, C whose tensors differ everywhere, but for those that one of them takes from another: key -> name."""
    own = {name: tensors_of(seed) for seed, name in enumerate("abc", start=1)}
    taken = {name: {key: own[other][key] for key, other in same.get(name, {}).items()} for name in own}
    return {name: write_model(folder / f"{name}.safetensors", 1, change=own[name] | taken[name]) for name in own}


def of(method: str, low: float, high: float, **settings: Any) -> tuple[MergeRecipe, dict[str, dict[str, float]]]:
    """A recipe whose weights are all at one end, and the other end."""
    recipe = MergeRecipe(method=method, models={}, weights=even(str(low), method), architecture="sd1", **settings)
    return recipe, even(str(high), method)


def idle(folder: Path, method: str, models: str = "ab", **same: Mapping[str, str]) -> set[str]:
    paths = write(folder, **same)
    recipe = MergeRecipe(method=method, models={}, weights=even(method=method), architecture="sd1")
    return idle_by_default(recipe, open_each({name: str(paths[name]) for name in models}))


def test_blocks_in_which_the_models_are_equal_are_idle(tmp_path: Path) -> None:
    same = dict.fromkeys(in_blocks("IN00", "IN01", "M00", "BASE"), "a")
    assert idle(tmp_path, "weighted_sum", b=same) == {"BASE.alpha", "IN00.alpha", "IN01.alpha", "M00.alpha"}


def test_the_sign_of_a_zero_is_no_difference(tmp_path: Path) -> None:
    zeros = {key: -torch.zeros(SHAPES[key], dtype=torch.float16) for key in in_blocks("IN03")}
    paths = {name: write_model(tmp_path / f"{name}.safetensors", seed, change=zeros) for seed, name in enumerate("ab")}
    recipe, high = of("weighted_sum", -1, 2)
    assert idle_weights(recipe, opened_of(paths, "ab"), high) == {"IN03.alpha"}


def test_one_number_that_differs_is_enough(tmp_path: Path) -> None:
    same = dict.fromkeys(SHAPES, "a")
    paths = write(tmp_path, b=same)
    almost = tensors_of(1)
    almost[f"{UNET}input_blocks.5.0.in_layers.2.weight"].view(-1)[-1].mul_(1.0 + 2**-10)
    write_model(paths["b"], 1, change=almost)
    recipe, high = of("weighted_sum", 0, 1)
    assert idle_weights(recipe, opened_of(paths, "ab"), high) == {f"{block}.alpha" for block in BLOCKS - {"IN05"}}


def opened_of(paths: Mapping[str, Path], names: str) -> dict[str, Checkpoint]:
    return open_each({name: str(paths[name]) for name in names})


def test_of_a_difference_the_models_that_are_subtracted_must_be_equal(tmp_path: Path) -> None:
    same = {**dict.fromkeys(in_blocks("IN02"), "b"), **dict.fromkeys(in_blocks("OUT03"), "a")}
    assert idle(tmp_path, "add_difference", "abc", c=same) == {"IN02.alpha"}


def test_one_of_two_weights_may_be_idle(tmp_path: Path) -> None:
    same = dict.fromkeys(in_blocks("OUT07"), "a")
    assert idle(tmp_path, "sum_twice", "abc", b=same) == {"OUT07.alpha"}
    # (1 - alpha - beta) A + alpha B + beta C: rounding depends on alpha although its tensors are equal
    assert idle(tmp_path, "triple_sum", "abc", b=same) == set()


def test_all_is_idle_where_a_model_is_merged_with_itself(tmp_path: Path) -> None:
    every = {f"{block}.{weight}" for block in BLOCKS for weight in ("alpha", "density")}
    assert idle(tmp_path, "ties", "abc", b=dict.fromkeys(SHAPES, "a"), c=dict.fromkeys(SHAPES, "a")) == every


def test_a_weight_is_not_searched_where_both_ends_are_the_same(tmp_path: Path) -> None:
    paths = write(tmp_path, b=dict.fromkeys(in_blocks("IN00", "IN03"), "a"))
    recipe, high = of("weighted_sum", 0, 1)
    high["alpha"]["IN00"] = 0.0
    assert idle_weights(recipe, opened_of(paths, "ab"), high) == {"IN03.alpha"}


ODD = """
from math import pi, sin
from bayes_merger.merging import merge_method

@merge_method(search={"alpha": (0.0, 2.0)})
def cyclic(a, b, *, alpha=0.5):
    return a + sin(alpha * pi) * (b - a)

@merge_method
def thrice_the_same(a, b, *, alpha=0.5):
    "A at 0, 0.5 and 1, something else between, however equal the models are."
    return a * (1 + alpha * (1 - alpha) * (1 - 2 * alpha))

@merge_method
def unused(a, b, *, alpha=0.5, beta=0.5):
    return a + alpha * (b - a)

@merge_method
def narrow(a, b, *, alpha=0.5):
    "Only B where alpha is within a hundredth of 0.8."
    return b.clone() if abs(alpha - 0.8) < 0.01 else a.clone()
"""


@pytest.fixture
def odd_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "merge_methods").mkdir()
    (tmp_path / "merge_methods" / "odd.py").write_text(ODD)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("odd_methods")
def test_methods_that_agree_at_both_ends_but_not_between_are_seen_through(tmp_path: Path) -> None:
    same = dict.fromkeys(in_blocks("IN04"), "a")
    assert idle(tmp_path, "cyclic", b=same) == {"IN04.alpha"}
    assert idle(tmp_path, "thrice_the_same", b=same) == set()
    assert idle(tmp_path, "narrow", b=same) == {"IN04.alpha"}
    assert idle(tmp_path, "unused", b=same) == {"IN04.alpha", "IN04.beta"}


def test_rules_decide_which_tensors_take_a_weight(tmp_path: Path) -> None:
    attention = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    own = tensors_of(1)
    paths = write(tmp_path, b={key: "a" for key in own if key != attention})
    models = opened_of(paths, "ab")
    recipe, high = of("weighted_sum", 0, 1)
    assert idle_weights(recipe, models, high) == {f"{block}.alpha" for block in BLOCKS - {"IN01"}}
    recipe, high = of("weighted_sum", 0, 1, elements=("IN01:attn2:0.5",))
    assert idle_weights(recipe, models, high) == {f"{block}.alpha" for block in BLOCKS}
    recipe, high = of("weighted_sum", 0, 1, elements=("IN01:attn2:face", "IN02:in_layers:rest"))
    recipe = recipe.with_weights({"alpha": {**recipe.weights["alpha"], "face": 0.0, "rest": 0.0}})
    high["alpha"] |= {"face": 1.0, "rest": 1.0}
    assert idle_weights(recipe, models, high) == {f"{place}.alpha" for place in BLOCKS | {"rest"}}


def test_a_slot_with_a_number_of_its_own_is_apart_from_its_block(tmp_path: Path) -> None:
    models = opened_of(write(tmp_path, b={key: "a" for key in SHAPES if key.startswith("cond_stage")}), "ab")
    recipe, high = of("weighted_sum", 0, 1)
    assert idle_weights(recipe, models, high) == set()
    recipe = recipe.with_weights({"alpha": {**recipe.weights["alpha"], "TE": 0.0}})
    high["alpha"]["TE"] = 1.0
    assert idle_weights(recipe, models, high) == {"TE.alpha"}


def test_the_vae_counts_where_it_is_merged(tmp_path: Path) -> None:
    same = {key: "a" for key in in_blocks("BASE") if not key.startswith("first_stage")}
    models = opened_of(write(tmp_path, b=same), "ab")
    recipe, high = of("weighted_sum", 0, 1)
    assert idle_weights(recipe, models, high) == {"BASE.alpha"}
    recipe, high = of("weighted_sum", 0, 1, vae="merge")
    assert idle_weights(recipe, models, high) == set()


def test_what_counts_is_what_is_written(tmp_path: Path) -> None:
    """B is A in fp16: they are the same model in a merge in fp16, but not in fp32."""
    wide = tensors_of(1, torch.float32)
    write_model(tmp_path / "a.safetensors", 1, change=wide)
    write_model(tmp_path / "b.safetensors", 1, change={key: tensor.half() for key, tensor in wide.items()})
    models = {name: open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"}
    recipe, high = of("weighted_sum", 0, 1, dtype="fp16")
    assert idle_weights(recipe, models, high) == {f"{block}.alpha" for block in BLOCKS}
    recipe, high = of("weighted_sum", 0, 1, dtype="fp32")
    assert idle_weights(recipe, models, high) == set()


def test_a_lora_leaves_the_blocks_idle_that_it_does_not_touch(tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    write_model(tmp_path / "a.safetensors", 1)
    factors = {f"{layer}.lora_up.weight": torch.ones(6, 2), f"{layer}.lora_down.weight": torch.ones(2, 7)}
    save_file(factors, tmp_path / "lora.safetensors")
    models = open_each({"a": str(tmp_path / "a.safetensors"), "b": str(tmp_path / "lora.safetensors")})
    recipe, high = of("weighted_sum", -1, 2)
    assert idle_weights(recipe, models, high) == {f"{block}.alpha" for block in BLOCKS - {"IN01"}}


STEPS = """
models: {a: A.safetensors, b: B.safetensors, c: C.safetensors}
steps:
  - {name: mix,   method: weighted_sum,   a: a,   b: b, alpha: search}
  - {name: final, method: add_difference, a: mix, b: b, c: c, alpha: search}
"""


def test_steps_have_idle_weights_of_their_own(tmp_path: Path) -> None:
    paths = write(tmp_path, b=dict.fromkeys(in_blocks("IN02"), "a"), c=dict.fromkeys(in_blocks("IN02", "IN03"), "b"))
    file = read_steps(yaml.safe_load(STEPS))
    numbers = free_numbers(file, SD1)
    rows = [{name.rpartition(".")[0]: end for name in numbers.searched} for end in (0.0, 1.0)]
    low, high = ({"mix_alpha": dict(row), "final_alpha": dict(row)} for row in rows)
    recipe = MergeRecipe(method="add_difference", models={}, weights=low, architecture="sd1", steps=file.steps)
    # in IN02 B is A and C is what B would have been: nothing of the first step, all of the second
    assert idle_weights(recipe, opened_of(paths, "abc"), high) == {"IN02.mix_alpha", "IN03.final_alpha"}


def test_numbers_for_which_the_method_is_not_defined_are_not_tried(tmp_path: Path) -> None:
    paths = write(tmp_path, b=dict.fromkeys(SHAPES, "a"), c=dict.fromkeys(SHAPES, "a"))
    recipe, high = of("multislerp", 0, 1)  # alpha + beta of more than 1 is refused
    assert len(idle_weights(recipe, opened_of(paths, "abc"), high)) == 52
    recipe, high = of("multislerp", 0.5, 1)  # of all points only one corner is defined
    assert idle_weights(recipe, opened_of(paths, "abc"), high) == set()


def mixed(key: str) -> str:
    """Which models are equal there: by turns all, two of them, none."""
    return ("all", "ab", "bc", "none")[SD1.blocks.index(SD1.place(key).block or "BASE") % 4]


@pytest.fixture(scope="module")
def partly_equal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    own = {name: tensors_of(seed) for seed, name in enumerate("abcde", start=1)}
    taken = {"all": {}, "ab": {"b": "a"}, "bc": {"c": "b"}, "none": {}}
    for name in own:
        change = {}
        for key in SHAPES:
            source = "a" if mixed(key) == "all" else taken[mixed(key)].get(name, name)
            change[key] = own[source][key]
        write_model(folder / f"{name}.safetensors", 1, change=change)
    return {name: open_checkpoint(folder / f"{name}.safetensors") for name in own}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("variant", SAMPLED, ids=title)
def test_no_method_s_result_depends_on_a_weight_that_is_called_idle(
    partly_equal: dict[str, Checkpoint], variant: Variant
) -> None:
    name, given, options = variant
    ranges = bound(variant).weights
    low, high = (
        {w: dict.fromkeys(SD1.blocks, getattr(about, end)) for w, about in ranges.items()} for end in ("low", "high")
    )
    recipe = MergeRecipe(method=name, models={}, weights=low, architecture="sd1", options=dict(options))
    models = {model: partly_equal[model] for model in given}
    found = idle_weights(recipe, models, high)
    equal, different = (
        {f"{SD1.place(key).block}.{w}" for w in ranges for key in SHAPES if mixed(key) == kind}
        for kind in ("all", "none")
    )
    assert equal <= found
    assert not different & found
    chosen = random.Random(name)
    moved = {
        w: {block: chosen.uniform(low[w][block], high[w][block]) if f"{block}.{w}" in found else number
            for block, number in row.items()}
        for w, row in low.items()
    }  # fmt: skip
    before = {key: tensor.clone() for key, tensor in merge(recipe, models)}
    assert [key for key, tensor in merge(recipe.with_weights(moved), models) if not tensor.equal(before[key])] == []
