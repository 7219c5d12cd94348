"""Merges in several steps: nothing is rounded between them, numbers may be open, mistakes name the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging import SD1, Checkpoint, MergeRecipe, ModelRef, merge, open_checkpoint, save_merge
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.engine.multi_step import LiveSteps
from bayes_merger.merging.recipe.step_file import FreeNumbers, StepFile, free_numbers, read_steps
from tests.merging.tiny_models import FIRST, TEXT, UNET, VAE, write_model

KEY = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LATE = UNET + "output_blocks.4.0.in_layers.2.weight"
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"

TEXT_OF = """
models: {a: A.safetensors, b: B.safetensors, c: C.safetensors, style: S.safetensors}
steps:
  - {name: mix,    method: weighted_sum,   a: a,   b: b, alpha: 0.4}
  - {name: detail, method: add_difference, a: mix, b: c, c: b, alpha: {default: 1.0, OUT03-OUT05: 0.3}}
  - {name: final,  method: weighted_sum,   a: detail, b: style, alpha: 0.6}
"""


def files(folder: Path) -> dict[str, Checkpoint]:
    for seed, name in enumerate("abc", start=1):
        write_model(folder / f"{name}.safetensors", seed)
    up, down = torch.randn(6, 2), torch.randn(2, 7)
    save_file({f"{LORA}.lora_up.weight": up, f"{LORA}.lora_down.weight": down}, folder / "style.safetensors")
    return {name: open_checkpoint(folder / f"{name}.safetensors") for name in ("a", "b", "c", "style")}


def read(text: str) -> StepFile:
    return read_steps(yaml.safe_load(text))


def recipe_of(file: StepFile, models: dict[str, Checkpoint], dtype: str = "fp32", **values: float) -> MergeRecipe:
    return MergeRecipe(
        method=file.steps[-1].method,
        models={name: ModelRef(str(model.path), model.sha256()) for name, model in models.items()},
        weights=free_numbers(file, SD1).weights(values),
        architecture="sd1",
        dtype=dtype,
        steps=file.steps,
    )


def test_17_numbers_are_lora_block_weights_where_a_step_takes_a_lora() -> None:
    text = (
        "models: {a: A.safetensors, b: B.safetensors, style: S.safetensors}\nsteps:\n"
        "  - {name: mix, a: a, b: b, alpha: 0.5}\n"
        f"  - {{name: final, a: mix, b: style, alpha: '{','.join(map(str, range(1, 18)))}'}}\n"
    )
    numbers = free_numbers(read(text), SD1, ["style"])
    found = [
        numbers.fixed[f"{block}.final_alpha"] for block in ("BASE", "IN00", "IN01", "M00", "OUT02", "OUT03", "OUT11")
    ]
    assert found == [1, 0, 2, 8, 0, 9, 17]
    with pytest.raises(ConfigError, match="step final: alpha: weights: 17 numbers for sd1"):
        free_numbers(read(text), SD1)


def test_every_step_is_evaluated_in_fp32_without_rounding_between(tmp_path: Path) -> None:
    models = files(tmp_path)
    recipe = recipe_of(read(TEXT_OF), models)
    merged = dict(merge(recipe, models))
    t = {name: load_file(tmp_path / f"{name}.safetensors") for name in models}
    for key, alpha in ((FIRST, 1.0), (LATE, 0.3), (KEY, 1.0)):
        a, b, c = (t[name][key].float() for name in "abc")
        wanted = torch.lerp(a, b, 0.4).add(c - b, alpha=alpha)
        if key == KEY:
            delta = t["style"][f"{LORA}.lora_up.weight"] @ t["style"][f"{LORA}.lora_down.weight"]
            wanted = torch.lerp(wanted, wanted + delta, 0.6)
        torch.testing.assert_close(merged[key], wanted, rtol=1e-6, atol=1e-6)
        assert not torch.equal(merged[key], merged[key].half().float())
    assert torch.equal(merged[VAE], t["a"][VAE].float())
    in_half = dict(merge(recipe_of(read(TEXT_OF), models, dtype="fp16"), models))
    assert all(torch.equal(in_half[key], merged[key].half()) for key in (FIRST, LATE, KEY))


def test_a_recipe_survives_json_and_its_file_and_gives_the_same_bytes(tmp_path: Path) -> None:
    models = files(tmp_path)
    recipe = recipe_of(read(TEXT_OF), models, dtype="auto")
    assert MergeRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    save_merge(recipe, models, tmp_path / "one.safetensors")
    with open_checkpoint(tmp_path / "one.safetensors") as written:
        assert written.dtypes[FIRST] == "F16"
        again = MergeRecipe.from_json(json.loads(written.metadata["bayes_merger.recipe"]))
        short = json.loads(written.metadata["sd_merge_recipe"])
    assert again.steps == recipe.steps
    assert short["interp_method"] == "weighted_sum, add_difference, weighted_sum"
    assert short["primary_model_hash"] == models["a"].sha256()
    save_merge(again, models, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_numbers_are_written_in_any_form() -> None:
    row = ",".join(str(i) for i in range(26))
    file = read(
        "models: {a: A, b: B, c: C}\nsteps:\n"
        f"  - {{name: one, a: a, b: b, alpha: '{row}'}}\n"
        f"  - {{name: two, a: one, b: c, alpha: [{row}]}}\n"
        "  - {name: three, method: sum_twice, a: two, b: b, c: c, alpha: look, "
        "beta: {default: search, IN03-IN01: 0.25, te: look, base: 0.5}, elements: 'OUT05:attn1:face'}\n"
    )
    numbers = free_numbers(file, SD1)
    assert numbers.fixed["OUT11.one_alpha"] == numbers.fixed["OUT11.two_alpha"] == 25
    assert {k: v for k, v in numbers.fixed.items() if k.endswith("three_beta")} == {
        "BASE.three_beta": 0.5,
        "IN01.three_beta": 0.25,
        "IN02.three_beta": 0.25,
        "IN03.three_beta": 0.25,
    }
    assert len(numbers.searched) == 26 - 4
    assert numbers.names["look"][-1] == "TE.three_beta"
    assert len(numbers.names["look"]) == 27
    assert numbers.names["face"] == ("face.three_alpha",)
    with pytest.raises(ConfigError, match="look: the recipe leaves this number open"):
        numbers.weights({"face": 0.1})
    with pytest.raises(ConfigError, match="three_beta: the recipe leaves IN00's to a search"):
        numbers.weights({"face": 0.1, "look": 0.2})
    weights = numbers.weights({"face": 0.1, "look": 0.2} | dict.fromkeys(numbers.searched, 0.75))
    assert weights["three_alpha"]["IN07"] == weights["three_beta"]["TE"] == 0.2
    assert weights["three_alpha"]["face"] == 0.1
    assert weights["three_beta"]["OUT11"] == 0.75


def test_a_live_model_follows_the_open_numbers_bit_for_bit(tmp_path: Path) -> None:
    models = files(tmp_path)
    file = read(
        "models: {a: A, b: B, c: C, style: S}\nsteps:\n"
        "  - {name: fixed, a: a, b: c, alpha: 0.25}\n"
        "  - {name: mix, method: slerp, a: fixed, b: b, alpha: look}\n"
        "  - {name: final, a: mix, b: style, alpha: {default: 0.5, IN01: strength}}\n"
    )
    recipe = recipe_of(file, models, dtype="fp16", look=0, strength=0)
    live = LiveSteps(recipe, models, constant={"fixed"})
    destinations = {
        key: torch.zeros(shape) for key, shape in models["a"].shapes.items() if key.startswith((UNET, "first", "cond")) and "position_ids" not in key
    }  # fmt: skip
    for look, strength in ((0.0, 0.0), (0.3, 0.9), (0.3, 0.1), (1.0, 0.1), (0.0, 0.0)):
        values = {"look": look, "strength": strength}
        weights = free_numbers(file, SD1).weights(values)
        live.apply(weights, destinations)
        wanted = dict(merge(recipe.with_weights(weights), models))
        assert all(torch.equal(tensor, wanted[key].float()) for key, tensor in destinations.items()), values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": []}, "steps is not a list"),
        ({"modles": {}}, "'modles' is unknown; did you mean models"),
        ({"models": {"a": 3}}, "model a: 3 is not the name of a file"),
        ({"models": {"a b": "x"}}, "'a b' cannot be the name of a model"),
        ({"steps": ["x"]}, "step step1: 'x' is not a table"),
        ({"steps": [{"name": "m", "method": "wieghted_sum"}]}, "step m: method: 'wieghted_sum'"),
        ({"steps": [{"name": "m", "a": "a"}]}, "step m: weighted_sum needs b"),
        ({"steps": [{"name": "m", "a": "a", "b": "bb"}]}, "step m: b: 'bb' is neither a model nor an earlier step"),
        ({"steps": [{"name": "m", "a": "a", "b": "m"}]}, "step m: b: 'm' is neither a model"),
        ({"steps": [{"name": "a", "a": "a", "b": "b"}]}, "step a: 'a' is taken"),
        ({"steps": [{"name": "m", "a": "a", "b": "b", "alhpa": 1}]}, "step m: 'alhpa' is unknown to weighted_sum"),
        ({"steps": [{"name": "m", "a": "a", "b": "b"}, {"name": "n", "a": "a", "b": "b"}]}, "step m: no later step"),
        ({"models": {"a": "A", "b": "B", "c": "C"}}, "model c: no step takes it"),
        ({"steps": [{"name": "m", "a": "a", "b": "b", "elements": 3}]}, "step m: elements"),
        ({"steps": [{"name": "m", "method": "ties", "a": "a", "b": "b", "c": "a", "vote": "x"}]}, "step m: vote: 'x'"),
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_names_the_step(change: dict[str, Any], words: str) -> None:
    good = {"models": {"a": "A", "b": "B"}, "steps": [{"name": "m", "a": "a", "b": "b"}]}
    with pytest.raises(ConfigError) as error:
        read_steps(good | change)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        ("1,2,3", "step m: alpha: weights: 3 numbers"),
        ([1, 2], "step m: alpha: 2 numbers"),
        ({"IN99": 1}, "'IN99' is not a block"),
        ({"TE-IN01": 1}, "stand in no row"),
        (None, "step m: alpha: None is neither"),
        ("in05", "'in05' is the name of a block"),
        ("m_alpha", "'m_alpha' is the name of a block or weight"),
    ],
)
def test_a_number_that_makes_no_sense_names_the_step(alpha: Any, words: str) -> None:
    file = read_steps({"models": {"a": "A", "b": "B"}, "steps": [{"name": "m", "a": "a", "b": "b", "alpha": alpha}]})
    with pytest.raises(ConfigError) as error:
        free_numbers(file, SD1)
    assert words in str(error.value)


def test_a_plan_tells_what_happens_in_the_steps_and_whose_fault_a_mistake_is(tmp_path: Path) -> None:
    models = files(tmp_path)
    write_model(tmp_path / "c.safetensors", 3, change={TEXT: None})
    models["c"] = open_checkpoint(tmp_path / "c.safetensors")
    recipe = recipe_of(read(TEXT_OF), models)
    notes = plan(recipe, models).notes
    assert any(
        note.startswith("step detail: kept from A, since another model lacks them: cond_stage") for note in notes
    )
    assert any("style.safetensors is a LoRA: 1 layers fit" in note for note in notes)
    bad = recipe.with_weights({**recipe.weights, "detail_alpha": {}})
    with pytest.raises(ConfigError, match="step detail: weights: no number for BASE"):
        plan(bad, models)
    wide = write_model(tmp_path / "b.safetensors", 2, change={FIRST: torch.zeros(8, 9, 3, 3, dtype=torch.float16)})
    with pytest.raises(CheckpointError, match="step mix: shapes differ"):
        plan(recipe, models | {"b": open_checkpoint(wide)})


def test_open_numbers_are_data() -> None:
    assert FreeNumbers({"IN00.m_alpha": 1.0}, {}, ()).weights({}) == {"m_alpha": {"IN00": 1.0}}
