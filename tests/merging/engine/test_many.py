"""Merges of four and more models: by numbers, in files and recipes, and what is said of models that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bayes_merger.errors import ConfigError
from bayes_merger.merging import (
    METHODS,
    SD1,
    Checkpoint,
    LiveMerge,
    MergeRecipe,
    MergeSettings,
    ModelRef,
    merge,
    method_spec,
    open_checkpoint,
    save_merge,
)
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.engine.multi_step import LiveSteps
from bayes_merger.merging.recipe.step_file import free_numbers, read_steps
from tests.merging.tiny_models import FIRST, SHAPES, TEXT, VAE, even, opened, recipe_of, tensors_of, write_model


def constant(folder: Path, numbers: dict[str, float]) -> dict[str, Checkpoint]:
    """Models all of whose numbers are one number."""
    models = {}
    for name, number in numbers.items():
        tensors = {key: torch.full(shape, number, dtype=torch.float16) for key, shape in SHAPES.items()}
        models[name] = open_checkpoint(write_model(folder / f"{name}.safetensors", 1, change=tensors))
    return models


@pytest.mark.parametrize(
    ("method", "numbers", "expected"),
    [
        ("n_average", {"a": 1, "b": 2, "c": 3, "d": 4}, 2.5),
        ("n_average", {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, 3),
        ("n_average", {"a": 1, "b": 2, "c": 3, "d": 4, "z": 5}, 3),
        ("karcher", {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, 3),  # all of one direction
        ("model_stock", {"a": 3, "b": 5, "c": 1, "d": 7, "e": 9}, 6),  # C and the mean of the others: all agree
        ("breadcrumbs", {"a": 2, "b": 3, "c": 1, "d": 4, "e": 5}, 3.5),
        ("ties", {"a": 2, "b": 0, "c": 1, "d": 3, "e": 3}, 1 + 5 / 3),  # B goes the other way and is not counted
        ("ram", {"a": 1, "b": 1, "c": 1, "d": 1, "e": 5}, 5),  # only E moved
    ],
)
def test_a_method_of_many_merges_every_one_of_them(
    tmp_path: Path, method: str, numbers: dict[str, float], expected: float
) -> None:
    models = constant(tmp_path, numbers)
    weights = {
        name: dict.fromkeys(even()["alpha"], about.default) for name, about in method_spec(method).weights.items()
    }
    out = dict(merge(recipe_of(models, weights, method, "fp32"), models))
    for key in (FIRST, TEXT):
        torch.testing.assert_close(out[key], torch.full(SHAPES[key], float(expected)), rtol=1e-5, atol=1e-5)
    assert torch.equal(out[VAE], torch.ones(SHAPES[VAE]) * numbers["a"])


def test_the_order_of_the_files_is_that_of_their_names(tmp_path: Path) -> None:
    models = opened(tmp_path, 5)
    turned = dict(reversed(models.items()))
    numbers = [tensors_of(seed)[FIRST].float() for seed in (1, 2, 3, 4, 5)]
    expected = METHODS["dropout"](*numbers, alpha=0.5, probability=0.5, key=FIRST).half()
    for given in (models, turned):
        out = dict(merge(recipe_of(given, even("0.5", "dropout"), "dropout"), given))
        assert torch.equal(out[FIRST], expected)


def test_a_further_model_gives_its_vae_and_may_lack_tensors(tmp_path: Path) -> None:
    models = opened(tmp_path, 4)
    models["e"] = open_checkpoint(write_model(tmp_path / "e.safetensors", 5, change={TEXT: None}))
    recipe = recipe_of(models, even("1", "n_average"), "n_average", vae="d")
    out = dict(merge(recipe, models))
    assert torch.equal(out[VAE], tensors_of(4)[VAE])
    assert torch.equal(out[TEXT], tensors_of(1)[TEXT])
    assert plan(recipe, models).missing == (TEXT,)
    assert any(f"another model lacks them: {TEXT}" in note for note in plan(recipe, models).notes)


def test_clipping_is_between_a_and_b_whatever_the_others_are(tmp_path: Path) -> None:
    models = constant(tmp_path, {"a": 1, "b": 2, "c": 30, "d": 40, "e": 50})
    recipe = replace(recipe_of(models, even("1", "n_average"), "n_average"), clip="hard")
    assert torch.equal(dict(merge(recipe, models))[FIRST], torch.full(SHAPES[FIRST], 2.0).half())
    live = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    LiveMerge(models, MergeSettings("n_average", clip="hard")).apply(even("1", "n_average"), live)
    assert torch.equal(live[FIRST], torch.full(SHAPES[FIRST], 2.0))


def test_a_recipe_of_five_models_survives_json_and_its_file_and_gives_the_same_bytes(tmp_path: Path) -> None:
    models = opened(tmp_path, 5)
    recipe = recipe_of(models, even("0.5", "ties"), "ties", dtype="fp16")
    assert MergeRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    save_merge(recipe, models, tmp_path / "one.safetensors")
    with open_checkpoint(tmp_path / "one.safetensors") as written:
        again = MergeRecipe.from_json(json.loads(written.metadata["bayes_merger.recipe"]))
        assert written.metadata["modelspec.merged_from"] == ", ".join(f"{name}.safetensors" for name in "abcde")
    assert list(again.models) == list("abcde")
    save_merge(again, models, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_bound_method_has_its_models_in_order_and_no_more_may_follow() -> None:
    spec = method_spec("n_average")
    assert spec.many
    bound = spec.bind(["e", "vae", "d", "b", "c", "a"])
    assert bound.models == bound.read == ("a", "b", "c", "d", "e")
    assert not bound.many
    assert bound.bind(bound.models).models == bound.models
    assert not method_spec("weighted_sum").many


def test_what_a_method_takes_is_known_without_binding_it() -> None:
    spec = method_spec("karcher")
    assert [spec.takes(models) for models in ("ab", "abc", "abcd", "abcf", "abd", "acd", "a")] == [
        True, True, True, True, False, False, False,
    ]  # fmt: skip
    assert [method_spec("ties").takes(models) for models in ("ab", "abc", "abcde", "abde")] == [
        False,
        True,
        True,
        False,
    ]
    assert not spec.takes(["a", "b", "c", "style"])
    assert not method_spec("sum_twice").takes("abcd")


@pytest.mark.parametrize(
    ("method", "models", "words"),
    [
        ("n_average", "abd", "model_d: n_average takes its models in order, and there is no C before D; name this one model_c"),
        ("karcher", "abe", "model_e: karcher takes its models in order, and there is no C before E; name this one model_c"),
        ("weighted_sum", "abc", "model_c: method 'weighted_sum' takes no model C; leave it out, or choose one that does"),
        (
            "add_difference",
            "abcd",
            "model_d: method 'add_difference' takes no model D; leave it out, or choose one of any number of models: "
            "breadcrumbs, della, dropout, karcher, model_stock, n_average, ram, sce, ties",
        ),
    ],
)  # fmt: skip
def test_a_model_that_a_method_does_not_take_is_named_with_the_way_out(method: str, models: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        method_spec(method).bind(models)
    assert str(error.value) == words


def test_a_plan_of_models_that_the_method_does_not_take_names_both(tmp_path: Path) -> None:
    models = opened(tmp_path, 4)
    with pytest.raises(ConfigError, match="ties takes models a, b, c and any number after them, not a, b, d"):
        plan(recipe_of({name: models[name] for name in "abd"}, even("0.5", "ties"), "ties"), models)
    with pytest.raises(ConfigError, match="slerp takes models a, b, c, not a, b, c, d"):
        plan(recipe_of(models, even("0.5", "slerp"), "slerp"), models)


STEPS = """
models: {x: a, y: b, z: c, w: d, v: e}
steps:
  - {name: mean,  method: n_average, a: x, b: y, c: z, d: w, alpha: 1}
  - {name: final, method: ties, a: mean, b: y, c: x, d: v, e: z, density: 1}
"""


def test_a_step_takes_any_number_of_models(tmp_path: Path) -> None:
    constants = constant(tmp_path, {"x": 1, "y": 2, "z": 3, "w": 6, "v": 4})
    file = read_steps(yaml.safe_load(STEPS))
    assert file.steps[0].models == {"a": "x", "b": "y", "c": "z", "d": "w"}
    weights = free_numbers(file, SD1).weights({})
    models = {name: ModelRef(str(model.path), model.sha256()) for name, model in constants.items()}
    recipe = MergeRecipe(
        method="ties", models=models, weights=weights, architecture="sd1", dtype="fp32", steps=file.steps
    )
    assert MergeRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    # the mean is 3; then 1 + the mean of 2, 1, 3 and 2
    torch.testing.assert_close(dict(merge(recipe, constants))[FIRST], torch.full(SHAPES[FIRST], 3.0))
    save_merge(recipe, constants, tmp_path / "out.safetensors")
    assert float(load_file(tmp_path / "out.safetensors")[TEXT].mean()) == 3.0


def test_a_live_model_follows_a_step_that_is_a_further_model_bit_for_bit(tmp_path: Path) -> None:
    files = opened(tmp_path, 5)
    text = """
    models: {a: a, b: b, c: c, d: d, e: e}
    steps:
      - {name: mix, a: d, b: e, alpha: {default: 0.5, IN00: look}}
      - {name: mean, method: karcher, a: a, b: b, c: c, d: mix, alpha: {default: 1, OUT00: strength}}
    """
    file = read_steps(yaml.safe_load(text))
    values: dict[str, float] = {"look": 0, "strength": 0}
    weights = free_numbers(file, SD1).weights(values)
    models = {name: ModelRef(str(model.path), model.sha256()) for name, model in files.items()}
    recipe = MergeRecipe(
        method="karcher", models=models, weights=weights, architecture="sd1", dtype="fp16", steps=file.steps
    )
    live, places = LiveSteps(recipe, files), {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    for look, strength in ((0.0, 0.0), (0.3, 0.9), (0.3, 0.1), (1.0, 0.1)):
        weights = free_numbers(file, SD1).weights({"look": look, "strength": strength})
        live.apply(weights, places)
        wanted = dict(merge(recipe.with_weights(weights), files))
        assert all(torch.equal(tensor, wanted[key].float()) for key, tensor in places.items()), (look, strength)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"method": "n_average", "d": "w"}, "step m: d: n_average takes its models in order, and there is no C before D; name this one c"),
        ({"method": "n_average", "c": None, "d": "w"}, "there is no C before D"),
        ({"method": "slerp", "c": "z", "d": "w"}, "step m: d: method 'slerp' takes no model D; leave it out, or choose one of any"),
        ({"method": "n_average", "c": "z", "d": "ww"}, "step m: d: 'ww' is neither a model nor an earlier step; did you mean w"),
        ({"method": "n_average", "c": "z", "dd": "w"}, "step m: 'dd' is unknown to n_average; did you mean d"),
        ({"method": "n_average", "c": "z", "alhpa": 1}, "step m: 'alhpa' is unknown to n_average; did you mean alpha"),
        ({"method": "ties", "d": "w"}, "step m: ties needs c"),
    ],
)  # fmt: skip
def test_a_step_with_a_model_too_many_says_so(step: dict[str, object], words: str) -> None:
    models = {"x": "a", "y": "b", "z": "c", "w": "d"}
    with pytest.raises(ConfigError) as error:
        read_steps({"models": models, "steps": [{"name": "m", "a": "x", "b": "y", **step}]})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
