"""Settings of a method that are no weights, from the recipe down to each tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.cli import main
from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, LiveMerge, MergeRecipe, MergeSettings, merge, open_checkpoint
from bayes_merger.merging.engine.merge import plan
from tests.merging.tiny_models import FIRST, TEXT, even, opened, recipe_of, tensors_of


def test_options_survive_json() -> None:
    recipe = MergeRecipe(
        method="dropout", models={}, weights=even(), architecture="sd1", options={"seed": 3, "combine": "elect"}
    )
    assert MergeRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    older = {name: value for name, value in recipe.to_json().items() if name != "options"}
    assert MergeRecipe.from_json(older).options == {}


@pytest.mark.parametrize("options", [{"seed": 1.5}, {"seed": True}, ["seed"], {"seed": None}])
def test_options_of_the_wrong_form_are_refused(options: Any) -> None:
    data = MergeRecipe(method="dropout", models={}, weights=even(), architecture="sd1").to_json() | {"options": options}
    with pytest.raises(ConfigError, match="options is not a table"):
        MergeRecipe.from_json(data)


def test_each_tensor_is_merged_with_the_recipes_options_and_its_own_key(tmp_path: Path) -> None:
    models = opened(tmp_path, 3)
    recipe = replace(recipe_of(models, even("0.5", "dropout"), "dropout"), options={"seed": 5, "combine": "active"})
    a, b, c = (tensors_of(seed) for seed in (1, 2, 3))
    out = dict(merge(recipe, models))
    for key in (FIRST, TEXT):
        three = [source[key].float() for source in (a, b, c)]
        expected = METHODS["dropout"](*three, alpha=0.5, probability=0.5, combine="active", seed=5, key=key)
        assert torch.equal(out[key], expected.half())
    assert any(not torch.equal(out[key], other) for key, other in merge(replace(recipe, options={}), models))


def test_an_optional_model_may_be_left_out(tmp_path: Path) -> None:
    models = opened(tmp_path, 3)
    pair = {name: models[name] for name in "ab"}
    a, b, c = (tensors_of(seed)[FIRST].float() for seed in (1, 2, 3))
    for given, expected in ((pair, METHODS["slerp"](a, b)), (models, METHODS["slerp"](a, b, c))):
        out = dict(merge(recipe_of(given, even("0.5", "slerp"), "slerp"), given))
        assert torch.equal(out[FIRST], expected.half())
    with pytest.raises(ConfigError, match="takes models a, b, c, not a, c"):
        plan(recipe_of({"a": models["a"], "c": models["c"]}, even("0.5", "slerp"), "slerp"), models)


def test_options_that_the_method_has_not_are_refused(tmp_path: Path) -> None:
    models = opened(tmp_path)
    with pytest.raises(ConfigError, match="weighted_sum has no option 'vote'"):
        plan(replace(recipe_of(models), options={"vote": "sum"}), models)
    with pytest.raises(ConfigError, match="vectors: 'row' is unknown"):
        LiveMerge(models, MergeSettings("nuslerp", options={"vectors": "row"}))


def test_the_command_line_takes_options_and_optional_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = opened(tmp_path, 3)
    files = [f"model_{name}={checkpoint.path}" for name, checkpoint in models.items()]
    out = tmp_path / "merged.safetensors"
    assert main(["merge", *files, "method=ties", "vote=count", "density=0.5", "--out", str(out)]) == 0
    a, b, c = (tensors_of(seed)[FIRST].float() for seed in (1, 2, 3))
    with open_checkpoint(out) as merged:
        assert json.loads(merged.metadata["bayes_merger.recipe"])["options"] == {"vote": "count"}
        assert torch.equal(merged.tensor(FIRST), METHODS["ties"](a, b, c, density=0.5, vote="count").half())
    assert main(["merge", *files[:2], "method=slerp", "--out", str(out), "--overwrite"]) == 0
    with open_checkpoint(out) as merged:
        assert torch.equal(merged.tensor(FIRST), METHODS["slerp"](a, b).half())
    capsys.readouterr()
    assert main(["merge", *files, "method=ties", "vote=most", "--out", str(out)]) == 2
    assert "vote: 'most' is unknown; give one of sum, count" in capsys.readouterr().err
