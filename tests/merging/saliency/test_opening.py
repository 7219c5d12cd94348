"""Files of activations that a merge names: whether they fit its models and each other, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.errors import BayesMergerError, ConfigError
from bayes_merger.merging import Checkpoint, LiveMerge, MergeSettings, merge, open_checkpoint
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.export.single_file import save_merge
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.saliency.settings import read_saliency
from tests.checkpoints.test_quantised import of_fp8
from tests.live_models import equal, live, plain, transposed
from tests.merging.saliency.recipes import WIDE, recipe
from tests.merging.tiny_models import FIRST, SHAPES, UNET, opened, write_model
from tests.sidecars import RUN, measured

SECOND = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"


def files_of(path: Path, models: dict[str, Checkpoint], **about: Any) -> dict[str, Any]:
    """Measured files of A and B, and the setting that names them."""
    for seed, name in enumerate("ab"):
        measured(path / f"{name}.act", WIDE, seed, **{"model": models[name].sha256(), **about})
    return read_saliency("saliency", {name: str(path / f"{name}.act") for name in "ab"})


def shares(path: Path, saliency: dict[str, str], **more: Any) -> torch.Tensor:
    """B's share in every input channel of the first tensor, between zeros and ones."""
    models = {}
    for number, name in enumerate("ab"):
        change = {FIRST: torch.full(SHAPES[FIRST], float(number))}
        models[name] = open_checkpoint(write_model(path / f"{name}.safetensors", 0, torch.float32, change=change))
    made = recipe(models, saliency=read_saliency("saliency", saliency), **more)
    return dict(merge(made, models))[FIRST][0, :, 0, 0]


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float32, torch.float64]
)
def test_a_file_of_any_dtype_is_compared_with_the_mean_of_what_is_not_0(tmp_path: Path, dtype: torch.dtype) -> None:
    file = str(tmp_path / "plain")
    save_file({FIRST: torch.tensor([8.0, 0.5, 2.0, 0.0], dtype=dtype).view(1, 4, 1, 1)}, file)
    found = shares(tmp_path, {"b": file, "centre": "none"})
    assert found.tolist() == pytest.approx([0.8, 0.2, 0.5, 1 / (1 + torch.e**6)])


def test_a_file_of_one_model_alone_moves_alpha_to_that_model(tmp_path: Path) -> None:
    file = str(tmp_path / "plain")
    save_file({FIRST: torch.tensor([4.0, 0.25, 1.0, 1.0]).view(1, 4, 1, 1)}, file)  # log odds, and their mean is 0
    assert shares(tmp_path, {"b": file}).tolist() == pytest.approx([0.8, 0.2, 0.5, 0.5])
    assert shares(tmp_path, {"a": file}).tolist() == pytest.approx([0.2, 0.8, 0.5, 0.5])


def test_zeros_are_no_opinion_where_all_are_and_limited_where_one_is(tmp_path: Path) -> None:
    none, one = str(tmp_path / "none"), str(tmp_path / "one")
    save_file({FIRST: torch.zeros(1, 4, 1, 1)}, none)
    save_file({FIRST: torch.tensor([0.0, 1.0, 1.0, 1.0]).view(1, 4, 1, 1)}, one)
    for saliency in ({"b": none}, {"a": none}, {"a": none, "b": none}):
        assert shares(tmp_path, saliency | {"centre": "none"}).tolist() == [0.5] * 4
    least = 1 / (1 + torch.e**6)
    assert shares(tmp_path, {"b": one, "centre": "none"}).tolist() == pytest.approx([least, 0.5, 0.5, 0.5])
    assert shares(tmp_path, {"a": none, "b": one, "centre": "none"}).tolist() == pytest.approx([0.5] + [1 - least] * 3)
    models = {name: open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"}
    for saliency, said in (({"b": one}, "there"), ({"a": none, "b": one}, "in one of the files")):
        notes = plan(recipe(models, saliency=read_saliency("saliency", saliency)), models).notes
        count = 1 if said == "there" else 3
        assert f"channels that are 0 {said}, or differ by more than a ratio of e^6, and count as that: {count}" in notes


@pytest.mark.parametrize("wide", ["a", "b"])
def test_models_for_inpainting_are_moved_in_the_channels_that_both_have(tmp_path: Path, wide: str) -> None:
    first = torch.randn(8, 9, 3, 3, generator=torch.Generator().manual_seed(9))
    models = {}
    for seed, name in enumerate("ab", 1):
        change = {FIRST: first} if name == wide else {}
        models[name] = open_checkpoint(
            write_model(tmp_path / f"{name}.safetensors", seed, torch.float32, change=change)
        )
    narrow = "b" if wide == "a" else "a"
    gate = torch.linspace(0.5, 2, 9).view(1, 9, 1, 1)
    save_file({FIRST: gate}, tmp_path / "nine")
    save_file({FIRST: gate[:, :4].contiguous()}, tmp_path / "four")
    measured(tmp_path / "measured", WIDE, model=models[narrow].sha256())
    found = []
    for of, file in ((narrow, "measured"), ("b", "nine"), ("b", "four")):
        made = recipe(models, saliency=read_saliency("saliency", {of: str(tmp_path / file)}), channels="pad")
        assert any(note.startswith("alpha is moved") for note in plan(made, models).notes)
        merged = dict(merge(made, models))
        assert torch.equal(merged[FIRST][:, 4:], first[:, 4:])
        assert not torch.allclose(
            merged[FIRST][:, :4], (models["a"].tensor(FIRST)[:, :4] + models["b"].tensor(FIRST)[:, :4]) / 2
        )
        destinations = {key: torch.empty_like(tensor) for key, tensor in merged.items() if tensor.is_floating_point()}
        LiveMerge(models, MergeSettings("weighted_sum", "fp32", saliency=made.saliency, channels="pad")).apply(
            made.weights, destinations
        )
        assert equal(destinations, merged)
        found.append(merged[FIRST])
    assert not torch.equal(found[0], found[1])


def test_identical_models_stay_what_they_are(tmp_path: Path) -> None:
    models = {name: open_checkpoint(write_model(tmp_path / f"{name}.safetensors", 1, torch.float32)) for name in "abc"}
    saliency = files_of(tmp_path, models)
    for method in ("weighted_sum", "add_difference", "salient_sum", "most_salient"):
        given = models if method != "weighted_sum" else {name: models[name] for name in "ab"}
        merged = dict(merge(recipe(given, "0.4", 3.0, method, saliency=saliency), given))
        assert all(torch.equal(merged[key], models["a"].tensor(key)) for key in SHAPES)


def test_a_live_merge_of_strength_0_is_the_plain_one(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float16)
    saliency = files_of(tmp_path, models)
    for dtype, make in (("fp16", plain), ("fp32", transposed)):
        found = []
        both: list[dict[str, Any]] = [{"saliency": saliency}, {}]
        for more in both:
            destinations = live(make, torch.float32)
            merging = LiveMerge(models, MergeSettings(dtype=dtype, **more))
            merging.apply(replace(recipe(models, "0.3", 0.0, **more), dtype=dtype).weights, destinations)
            found.append(destinations)
        assert equal(*found)


def test_the_same_recipe_and_files_give_the_same_bytes(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float16)
    made = recipe(models, "0.3", 2.0, saliency=files_of(tmp_path, models))
    for name in ("one", "two"):
        save_merge(made, models, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


ALIKE: dict[str, Any] = {
    "prompts": "q", "seeds": [1, 3], "size": [64, 96], "steps": 21, "sampler": "Euler karras", "cfg_scale": 5.0,
    "clip_skip": 2, "dtype": "float16",
}  # fmt: skip


@pytest.mark.parametrize("what", [*ALIKE, "bands", "another payload"])
def test_two_files_that_were_not_measured_alike_are_not_compared(tmp_path: Path, what: str) -> None:
    models = opened(tmp_path, 2, torch.float32)
    saliency = files_of(tmp_path, models)
    runs = [RUN | {what: ALIKE[what]}] if what in ALIKE else [RUN, RUN | {"id": "two"}]
    change: dict[str, torch.Tensor | None] = {}
    if what == "bands":
        runs, change = [RUN], {key: None for key in load_file(tmp_path / "a.act") if not key.startswith(FIRST)}
        change |= {f"{FIRST}|{name}": torch.ones(3, width) for name, width in (("in_sq", 4), ("in_abs", 4))}
        change |= {f"{FIRST}|{name}": torch.ones(3, width) for name, width in (("guided_in", 4), ("guided_out", 8))}
        change |= {f"{FIRST}|{name}": torch.ones(3, dtype=torch.float64) for name in ("n", "guided_n")}
    elif len(runs) > 1:
        change = {f"{key}|by_run": torch.ones(2, 2) for key in WIDE}
    bands = 3 if what == "bands" else 2
    measured(tmp_path / "a.act", WIDE, change=change, model=models["a"].sha256(), runs=runs, bands=bands)
    with pytest.raises(ConfigError, match=r"a\.act and b\.act were not measured alike; give both the same payloads"):
        plan(recipe(models, saliency=saliency), models)


def test_the_files_of_a_lora_are_those_of_model_a_with_it(tmp_path: Path) -> None:
    a = open_checkpoint(write_model(tmp_path / "a.safetensors", 1, torch.float32))
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    factors = {f"{layer}.lora_down.weight": torch.ones(1, 7), f"{layer}.lora_up.weight": torch.ones(6, 1)}
    save_file(factors, tmp_path / "style.safetensors")
    models: dict[str, Checkpoint] = {"a": a, "b": LoraModel(a, open_checkpoint(tmp_path / "style.safetensors"))}
    with pytest.raises(
        ConfigError, match=r"were measured on the same model .*; measure A with the LoRA, merged at alpha"
    ):
        plan(recipe(models, saliency=files_of(tmp_path, models, model=a.sha256())), models)
    saliency = files_of(tmp_path, models)
    measured(tmp_path / "b.act", WIDE, 1, model="f" * 64)
    notes = plan(recipe(models, saliency=saliency), models).notes
    assert any(note.startswith("b.act is taken to be measured on model A with style.safetensors") for note in notes)


def test_a_quantised_model_has_a_file_of_its_own(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float32)
    save_file(of_fp8(load_file(models["b"].path)), tmp_path / "fp8.safetensors")
    models["b"] = open_checkpoint(tmp_path / "fp8.safetensors")
    saliency = files_of(tmp_path, models)
    plan(recipe(models, saliency=saliency), models)
    measured(tmp_path / "b.act", WIDE, model="f" * 64)
    with pytest.raises(BayesMergerError, match=r"measured on another model \(ffffffffff\), not on fp8\.safetensors"):
        plan(recipe(models, saliency=saliency), models)


def test_a_weight_may_be_multiplied_by_what_another_model_does_and_it_is_said(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float32)
    act = {"alpha": {"path": str(tmp_path / "c.act"), "sha256": ""}}
    measured(tmp_path / "c.act", WIDE, model="f" * 64)
    said = "c.act was measured on none of these models, but on ffffffffff"
    assert said in plan(recipe(models, act=act), models).notes
    measured(tmp_path / "c.act", WIDE, model=models["b"].sha256())
    assert said not in plan(recipe(models, act=act), models).notes


def test_names_that_no_model_has_are_told(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float32)
    act = {"alpha": {"path": str(tmp_path / "gate"), "sha256": ""}}
    ones = torch.ones(1, 1, 1, 1)
    save_file({FIRST: ones, "unet.x": ones + 1, "unet.y": ones + 2}, tmp_path / "gate")
    notes = plan(recipe(models, act=act), models).notes
    assert "2 of 3 weights in gate are in no model, such as 'unet.x'" in notes
    for name in (SECOND.removeprefix("model."), SECOND.removeprefix(UNET), SECOND.removesuffix(".weight")):
        save_file({name: ones}, tmp_path / "gate")
        with pytest.raises(BayesMergerError, match=f"'{name}' is called '{SECOND}' there"):
            plan(recipe(models, act=act), models)


def test_what_moves_nothing_is_said(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float32)
    saliency = files_of(tmp_path, models)
    for alpha, strength, moves in (("0.5", 1.0, True), ("1", 1.0, False), ("0", 1.0, False), ("0.5", 0.0, False)):
        notes = plan(recipe(models, alpha, strength, saliency=saliency), models).notes
        assert any(note.startswith("saliency moves nothing") for note in notes) != moves


def test_a_file_that_is_two_models_is_told(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float32)
    given = {**models, "c": models["a"]}
    notes = plan(recipe(given, method="most_salient", saliency=files_of(tmp_path, models)), given).notes
    assert f"models A and C are one file, {models['a'].path.name}" in notes


def test_a_file_of_a_recipe_that_has_moved_may_be_given(tmp_path: Path) -> None:
    models = opened(tmp_path, 2, torch.float32)
    saliency = {"b": {"path": str(tmp_path / "gone"), "sha256": "f" * 64}}
    with pytest.raises(BayesMergerError, match=r"saliency\.b: .*gone: cannot be opened"):
        plan(recipe(models, saliency=saliency), models)
