"""Recipes that somebody else made: as JSON, as YAML in several steps, and inside merged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from safetensors.torch import load_file, save_file

from bayes_merger.merges.resolve import recipe_and_models
from bayes_merger.merging.engine.merge import plan
from tests.hostile.fuzzing import LENGTHS, altered, fuzzing, mutated, one_clear_line
from tests.merging.tiny_models import opened, recipe_of

STEPS = """\
models: {a: a.safetensors, b: b.safetensors}
steps:
  - {name: mix, method: weighted_sum, a: a, b: b, alpha: 0.4}
  - {name: detail, method: weighted_sum, a: mix, b: b, alpha: {default: 1.0, IN03-IN05: look}, elements: ['IN01:attn2:0.5']}
"""


def plan_of(*words: str) -> None:
    with one_clear_line():
        recipe, models = recipe_and_models(words, verify=False)
        planned = plan(recipe, models)
        assert planned.items


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    opened(tmp_path)
    return tmp_path


def data_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = recipe_of(opened(folder)).to_json()
    return data


@pytest.mark.parametrize("examples", LENGTHS)
def test_any_recipe_is_planned_or_refused(examples: int, folder: Path) -> None:
    path = folder / "recipe.json"

    @fuzzing(examples)
    @given(altered(data_of(folder)))
    def check(data: object) -> None:
        path.write_text(json.dumps(data), encoding="utf-8")
        plan_of(str(path))

    check()


@pytest.mark.parametrize("examples", LENGTHS)
def test_any_recipe_in_several_steps_is_planned_or_refused(examples: int, folder: Path) -> None:
    path = folder / "steps.yaml"

    @fuzzing(examples)
    @given(altered(yaml.safe_load(STEPS)))
    def check(data: object) -> None:
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        plan_of(str(path), "look=0.5")

    check()


@pytest.mark.parametrize("examples", LENGTHS)
def test_any_yaml_is_planned_or_refused(examples: int, folder: Path) -> None:
    path = folder / "steps.yaml"

    @fuzzing(examples)
    @given(mutated(STEPS.encode()))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        plan_of(str(path), "look=0.5")

    check()


@pytest.mark.parametrize("examples", LENGTHS)
def test_any_recipe_inside_a_model_is_planned_or_refused(examples: int, folder: Path) -> None:
    path, tensors = folder / "merged.safetensors", load_file(folder / "a.safetensors")

    @fuzzing(examples)
    @given(altered(data_of(folder)))
    def check(data: object) -> None:
        save_file(tensors, path, {"bayes_merger.recipe": json.dumps(data)})
        plan_of(str(path))

    check()
