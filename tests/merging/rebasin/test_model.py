"""``merging.rebasin.model``: a model in another's order as a model of a merge, in files, recipes and live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.errors import BayesMergerError, CheckpointError, ConfigError
from bayes_merger.merging import SD1, Checkpoint, LiveMerge, MergeRecipe, MergeSettings, merge
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.models.opening import open_each, references, with_orders
from bayes_merger.merging.rebasin.model import AlignedModel
from bayes_merger.merging.rebasin.settings import read_rebasin
from bayes_merger.merging.saliency.settings import read_saliency
from tests.folders import write_file
from tests.merging.rebasin.models import scrambled
from tests.sidecars import measured

LAYOUT = {"groups": 8, "heads": {"8": 2, "16": 2, "24": 2}, "text_heads": {"8": 2}}
WEIGHTS = {"alpha": dict.fromkeys(SD1.blocks, 0.3)}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> Mapping[str, str]:
    """A, B, and B with its neurons in a random order."""
    lost, _ = scrambled(tiny_b, tiny_sd1_config, tmp_path_factory.mktemp("lost") / "lost.safetensors")
    return {"a": str(tiny_a), "b": str(tiny_b), "lost": str(lost), "config": str(tiny_sd1_config)}


def settings(files: Mapping[str, str], **more: Any) -> dict[str, Any]:
    return read_rebasin("rebasin", {"b": {"to": "a", "config": files["config"], **more}})


@pytest.fixture
def models(files: Mapping[str, str]) -> Iterator[dict[str, Checkpoint]]:
    opened = open_each({"a": files["a"], "b": files["lost"]}, rebasin=settings(files))
    yield opened
    for model in opened.values():
        model.close()


def recipe(models: Mapping[str, Checkpoint], rebasin: Mapping[str, Any]) -> MergeRecipe:
    return MergeRecipe(models=references(models, False), weights=WEIGHTS, architecture="sd1", rebasin=rebasin)


def test_a_file_and_a_live_model_are_those_of_the_aligned_model_bit_for_bit(
    files: Mapping[str, str], models: dict[str, Checkpoint]
) -> None:
    made = recipe(models, settings(files))
    written = dict(merge(made, models))
    aligned = models["b"]
    assert isinstance(aligned, AlignedModel)
    with aligned.permuted as model:
        expected = dict(merge(recipe(models, {}), {"a": models["a"], "b": model}))
        assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())
        destinations = {
            key: torch.empty_like(t) for key, t in written.items() if SD1.place(key).role in ("block", "vae")
        }
        LiveMerge(models, MergeSettings(rebasin=made.rebasin)).apply(WEIGHTS, destinations)
        assert all(torch.equal(written[key], tensor) for key, tensor in destinations.items())
        moved = [key for key in written if not torch.equal(model.tensor(key), aligned.original.tensor(key))]
    assert len(moved) > 100


def test_a_plan_says_so_and_reads_nothing(files: Mapping[str, str], models: dict[str, Checkpoint]) -> None:
    notes = plan(recipe(models, settings(files)), models).notes
    assert "lost.safetensors: its neurons are put in the order of those of a.safetensors" in notes
    assert "permuted" not in vars(models["b"])


@pytest.mark.slow
def test_a_recipe_has_the_layout_and_the_order_and_finds_it_without_the_folder(
    files: Mapping[str, str], models: dict[str, Checkpoint]
) -> None:
    whole = with_orders(recipe(models, settings(files)), models)
    said = whole.rebasin["b"]
    assert set(said) == {"to", "by", "layout", "sha256"}
    assert said["layout"]["groups"] == 8
    assert MergeRecipe.from_json(whole.to_json()) == whole
    again = open_each({"a": files["a"], "b": files["lost"]}, rebasin=whole.rebasin)
    assert with_orders(whole, again) == whole
    assert all(torch.equal(again["b"].tensor(key), models["b"].tensor(key)) for key in again["b"].shapes)
    assert replace(whole, rebasin={"b": {**said, "sha256": "f" * 64}}).digest != whole.digest
    other = open_each({"a": files["a"], "b": files["lost"]}, rebasin={"b": {**said, "sha256": "f" * 64}})
    with pytest.raises(
        CheckpointError, match=r"into another order here than the recipe's \([0-9a-f]{10}, not ffffffffff"
    ):
        other["b"].tensor(next(iter(other["b"].shapes)))


def test_activations_of_the_model_in_its_own_order_are_refused(
    tmp_path: Path, files: Mapping[str, str], models: dict[str, Checkpoint]
) -> None:
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    measured(tmp_path / "b.act.safetensors", {key: models["b"].shapes[key]}, model=models["b"].sha256())
    saliency = read_saliency("saliency", str(tmp_path / "b.act.safetensors"))
    made = replace(recipe(models, settings(files)), saliency=saliency, weights=WEIGHTS | {"strength": WEIGHTS["alpha"]})
    with pytest.raises(CheckpointError, match=r"belongs to lost\.safetensors as it is, and rebasin puts its neurons"):
        plan(made, models)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, "rebasin is 7; name a model"),
        ({"b": 7}, "rebasin.b is 7; name the model"),
        ({"b": {"by": "weights"}}, "rebasin.b: names no model to be like; give  rebasin.b.to=a"),
        ({"b": {"to": "a", "by": "magic"}}, "rebasin.b.by: 'magic' is unknown; give weights or activations"),
        ({"b": {"to": "a", "colour": "red"}}, "rebasin.b.colour: is unknown"),
        ({"b": {"to": ["a"]}}, r"rebasin.b.to: \['a'\] is no text"),
        ({"c": "a"}, "rebasin.c: is no model of this merge; known: a, b"),
        ({"b": "c"}, "rebasin.b: 'c' is no model that keeps its order; give one of a"),
        ({"b": "b"}, "rebasin.b: 'b' is no model that keeps its order; give one of a"),
        ({"a": "b", "b": "a"}, "rebasin.a: 'b' is no model that keeps its order"),
        ({"b": {"to": "a", "layout": [1]}}, "its layout is not a table of groups, heads, text_heads and vae_groups"),
        ({"b": {"to": "a", "layout": {"groups": 0, "heads": {}, "text_heads": {}}}}, "no whole numbers of groups"),
        ({"b": {"to": "a", "layout": {"groups": 4, "heads": {"x": 1}, "text_heads": {}}}}, "a width that is no whole"),
        ({"b": {"to": "a", "layout": {"groups": 3, "heads": {}, "text_heads": {}}}}, "which is none of"),
        *(
            ({"b": {"to": "a", "layout": LAYOUT | {"vae_groups": groups}}}, "no whole numbers of groups and heads")
            for groups in (0, -8, True, 8.0, "8", None, [8])
        ),
        (
            {"b": {"to": "a", "layout": LAYOUT | {"vae_groups": 7}}},
            "has 8 channels, which 7 groups or heads do not divide",
        ),
        (
            {"b": {"to": "a", "layout": LAYOUT | {"vae": 8}}},
            "its layout is not a table of groups, heads, text_heads and",
        ),
    ],
)
def test_settings_that_make_no_sense_are_one_line(files: Mapping[str, str], given: Any, said: str) -> None:
    with pytest.raises(BayesMergerError, match=said) as caught:
        open_each({"a": files["a"], "b": files["b"]}, rebasin=read_rebasin("rebasin", given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"), [("sdxl", "their neurons cannot be compared"), ("flux", "can be put in order")]
)
def test_models_of_other_kinds_are_refused(tmp_path: Path, files: Mapping[str, str], kind: str, said: str) -> None:
    write_file(tmp_path / "other.safetensors", kind)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_each(
            {"a": files["a"], "b": str(tmp_path / "other.safetensors")}, rebasin=read_rebasin("rebasin", {"b": "a"})
        )
    assert caught.value.subject == "rebasin.b"


def test_a_model_of_unusual_size_needs_its_folder(files: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError, match="give the diffusers folder with the settings of this model as its config"):
        open_each({"a": files["a"], "b": files["lost"]}, rebasin=read_rebasin("rebasin", {"b": "a"}))
