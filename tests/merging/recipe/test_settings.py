"""The settings of a merge: one field each, read alike from a config, the command line, YAML and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merges.from_settings import recipe_by_hand
from bayes_merger.merging import MergeRecipe, MergeSettings, read_settings
from bayes_merger.merging.recipe.settings import OF_A_STEP, SETTINGS
from bayes_merger.merging.recipe.step_file import read_steps
from bayes_merger.run.models import merge_settings
from tests.merging.tiny_models import even

# For each setting: as data has it, as the command line has it, and what both mean.
VALUES: dict[str, tuple[Any, dict[str, str], Any]] = {
    "method": ("slerp", {"method": "slerp"}, "slerp"),
    "dtype": ("bf16", {"dtype": "bf16"}, "bf16"),
    "vae": ("merge", {"vae": "merge"}, "merge"),
    "options": ({"vectors": "rows"}, {"method": "nuslerp", "vectors": "rows"}, {"vectors": "rows"}),
    "elements": (["OUT06:ff:0.5"], {"elements": "OUT06:ff:0.5"}, ("OUT06:ff:0.5",)),
    "compat": ("supermerger", {"compat": "supermerger"}, "supermerger"),
    "blocks": ({"UNET": "model."}, {"blocks": "blocks.yaml"}, (("UNET", ("model.",)),)),
    "channels": ("pad", {"channels": "pad"}, "pad"),
    "clip": ("soft", {"clip": "soft"}, "soft"),
    "ema": ("keep", {"ema": "keep"}, "keep"),
    "saliency": (
        {"a": "A.act", "b": "B.act", "by": "gradient"},
        {"saliency.a": "A.act", "saliency": "B.act", "saliency.by": "gradient"},
        {"a": {"path": "A.act", "sha256": ""}, "b": {"path": "B.act", "sha256": ""}, "by": "gradient"},
    ),
    "act": ({"alpha": "S.act"}, {"alpha": "act:S.act"}, {"alpha": {"path": "S.act", "sha256": ""}}),
    "rebasin": ({"b": "a"}, {"rebasin.b": "a"}, {"b": {"to": "a", "by": "weights", "sha256": ""}}),
}


def test_every_setting_is_tried_here() -> None:
    assert tuple(VALUES) == SETTINGS


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_read_from_a_mapping_and_kept_by_a_recipe_s_json(name: str) -> None:
    written, _, meant = VALUES[name]
    settings = read_settings({"model_a": "A.safetensors", "compat": None} | {name: written})
    assert settings.changed() == {name: meant}
    recipe = MergeRecipe(**vars(settings), models={}, weights=even(), architecture="sd1")
    data = json.loads(json.dumps(recipe.to_json()))
    assert MergeRecipe.from_json(data) == recipe


# what `rebasin` becomes there depends on the models: tests/cli/test_rebasin.py
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "rebasin"])
def test_a_setting_is_read_from_the_command_line(
    name: str, tiny_a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("blocks.yaml").write_text("UNET: model.", encoding="utf-8")
    given = {"model_a": str(tiny_a), "model_b": str(tiny_a), **VALUES[name][1]}
    recipe, checkpoints = recipe_by_hand(given, given.pop("dtype", None))
    for checkpoint in checkpoints.values():
        checkpoint.close()
    assert getattr(recipe, name) == VALUES[name][2]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in OF_A_STEP])
def test_a_recipe_in_steps_has_the_settings_of_the_whole_merge(name: str) -> None:
    written, _, meant = VALUES[name]
    steps = [{"name": "mix", "a": "a", "b": "b", "alpha": 0.5}]
    file = read_steps({"models": {"a": "A.ckpt", "b": "B.ckpt"}, "steps": steps, name: written})
    assert file.settings.changed() == {name: meant}


@pytest.mark.parametrize("name", [name for name in SETTINGS if hasattr(RunConfig(), name)])
def test_a_run_s_config_is_read_the_same_way(name: str) -> None:
    written, _, meant = VALUES[name]
    assert merge_settings(RunConfig(**{name: written})).changed()[name] == meant


def test_a_recipe_that_uses_no_later_setting_has_the_json_of_old_ones() -> None:
    recipe = MergeRecipe(models={}, weights={"alpha": {"BASE": 0.5}}, architecture="sd1", dtype="fp16")
    assert json.dumps(recipe.to_json()) == (
        '{"method": "weighted_sum", "models": {}, "weights": {"alpha": {"BASE": 0.5}}, "architecture": "sd1", '
        '"dtype": "fp16", "vae": "a", "options": {}, "elements": [], "compat": "", "blocks": [], "channels": "equal"}'
    )
    later = MergeRecipe(models={}, weights={}, architecture="sd1", clip="hard", ema="keep")
    assert list(later.to_json())[-3:] == ["channels", "clip", "ema"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"channels": "wide"}, "channels: 'wide' is unknown; give equal or pad"),
        ({"ema": "both"}, "ema: 'both' is unknown; give drop or keep"),
        ({"clip": "hrad"}, "clip: 'hrad' is unknown; give hard or soft, or leave it out"),
        ({"compat": "sd-meh"}, "compat: 'sd-meh' is unknown; give supermerger, or leave it out"),
    ],
)
def test_what_is_none_of_a_setting_s_choices_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(settings).check()
    assert str(caught.value) == text
    MergeSettings().check()


def test_a_value_of_the_wrong_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="vae is 3; give a text"):
        read_settings({"vae": 3})
    with pytest.raises(ConfigError) as caught:
        MergeRecipe.from_json({"method": "slerp", "models": {}, "weights": {}, "architecture": "sd1", "clip": 1})
    assert (caught.value.subject, caught.value.reason) == ("recipe", "clip is 1; give a text")
