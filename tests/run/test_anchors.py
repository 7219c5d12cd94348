"""anchors=[...]: merges that a person believes in become rows of the start design."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.architectures import ARCHITECTURES
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.recipe.recipe import MergeRecipe, ModelRef
from bayes_merger.merging.saliency.settings import strengthened
from bayes_merger.run.anchors import start_design
from bayes_merger.search import build_space
from bayes_merger.search.study.study import create_study, open_storage
from tests.sidecars import measured

SD1 = ARCHITECTURES["sd1"]
GRADIENT = {block: round(index / 25, 4) for index, block in enumerate(SD1.blocks)}


def parts(anchors: list[Any], method: str = "weighted_sum", runs: Path = Path("runs"), **rules: Any) -> Any:
    """As much of a run as an anchor needs."""
    saliency = rules.pop("saliency", {})
    spec = strengthened(method_spec(method), saliency)
    weights = {name: (weight.low, weight.high) for name, weight in spec.weights.items()}
    config = RunConfig(anchors=anchors, runs=str(runs), init_points=rules.pop("init_points", 8), saliency=saliency)
    space = build_space(SD1.blocks, weights, **rules)
    return SimpleNamespace(config=config, method=spec, space=space, architecture=SD1, checkpoints={}, steps=None)


def recipe(weights: dict[str, dict[str, float]] | None = None, method: str = "weighted_sum") -> MergeRecipe:
    models = {name: ModelRef(f"{name}.safetensors", "") for name in ("a", "b")}
    return MergeRecipe(method=method, models=models, weights=weights or {"alpha": GRADIENT}, architecture="sd1")


def row(found: dict[str, float]) -> list[float]:
    return [found[f"{block}.alpha"] for block in SD1.blocks]


def test_presets_weight_strings_and_single_numbers_come_after_the_three_pure_ones() -> None:
    text = ",".join(str(number) for number in GRADIENT.values())
    rows, lines = start_design(parts(["GRAD_V", text, 0.3, "0.25", {"alpha": "out07"}]))
    assert lines == []
    assert [set(found.values()) for found in rows[:3]] == [{0.0}, {1.0}, {0.5}]
    assert row(rows[3])[:3] == pytest.approx([0, 1, 11 / 12])
    assert row(rows[4]) == list(GRADIENT.values())
    assert [set(found.values()) for found in rows[5:7]] == [{0.3}, {0.25}]
    assert row(rows[7]) == [0] * 19 + [1] * 7
    assert len(rows) == 8


def test_a_recipe_comes_from_a_file_a_merged_model_or_a_study(tmp_path: Path) -> None:
    file, model = tmp_path / "recipe.json", tmp_path / "merged.safetensors"
    file.write_text(json.dumps(recipe().to_json()))
    key = "model.diffusion_model.input_blocks.0.0.weight"
    metadata = {"bayes_merger.recipe": json.dumps(recipe({"alpha": dict.fromkeys(SD1.blocks, 0.7)}).to_json())}
    save_file({key: torch.zeros(320, 4, 3, 3)}, model, metadata)
    study_of(tmp_path / "old", {1: 0.2, 2: 0.9})
    rows, lines = start_design(parts([str(file), str(model), "old", "old:0"], runs=tmp_path))
    assert lines == []
    assert row(rows[3]) == list(GRADIENT.values())
    assert [set(found.values()) for found in rows[4:7]] == [{0.7}, {0.9}, {0.2}]


def study_of(folder: Path, merges: dict[int, float]) -> None:
    """A study whose trials have these points, and these numbers everywhere."""
    sampler = optuna.samplers.RandomSampler(0)
    data = recipe().to_json()
    del data["weights"]
    space = build_space(SD1.blocks, {"alpha": (0.0, 1.0)})
    study = create_study(
        open_storage(folder / "study.db"),
        folder.name,
        sampler,
        space=space,
        fingerprint={},
        design=[],
        attributes={"recipe": data},
    )
    for points, number in merges.items():
        weights = {"alpha": dict.fromkeys(SD1.blocks, number)}
        study.add_trial(
            optuna.create_trial(
                value=float(points),
                params=space.values_of(weights),
                distributions=dict(space.distributions()),
                user_attrs={"weights": weights, "scores": []},
            )
        )


def test_a_study_may_be_called_as_a_number_would_be(tmp_path: Path) -> None:
    study_of(tmp_path / "e1", {1: 0.2, 2: 0.9})
    rows, _ = start_design(parts(["e1", ".4e0"], runs=tmp_path))
    assert [set(found.values()) for found in rows[3:5]] == [{0.9}, {0.4}]


def test_what_lies_outside_the_space_gives_way_and_that_is_said() -> None:
    rules: dict[str, Any] = {"frozen": {"IN00": 0.25}, "ranges": {"OUT11": [0.2, 0.8]}, "groups": [["IN01", "IN02"]]}
    rows, lines = start_design(parts(["GRAD_V"], **rules))
    found = rows[3]
    assert "IN00.alpha" not in found
    assert found["OUT11.alpha"] == 0.8
    assert found["IN01.alpha"] == pytest.approx((11 / 12 + 10 / 12) / 2)
    assert lines == ["anchor GRAD_V: IN00.alpha frozen; OUT11.alpha clipped; IN01.alpha averaged in groups"]


def test_weights_that_an_anchor_does_not_name_take_the_methods_default() -> None:
    rows, lines = start_design(parts([{"alpha": "ALL_B"}], "ties"))
    spec = method_spec("ties")
    others = [name for name in spec.weights if name != "alpha"]
    for name in others:
        assert {rows[3][f"{block}.{name}"] for block in SD1.blocks} == {spec.weights[name].default}
    assert bool(lines) == bool(others)


def test_the_weights_of_another_method_are_taken_and_that_is_said(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(recipe(method="slerp").to_json()))
    assert start_design(parts([str(file)]))[1] == [
        f"anchor {str(file)[:37]}...: its weights are those of method 'slerp'"
    ]


def test_an_anchor_that_is_there_already_is_not_drawn_twice() -> None:
    rows, _ = start_design(parts([0.5, "ALL_A", 0.3, "0.3"]))
    assert [set(found.values()) for found in rows[:4]] == [{0.0}, {1.0}, {0.5}, {0.3}]
    assert len({tuple(found.values()) for found in rows}) == len(rows) == 8


def test_saliency_takes_each_block_from_the_model_that_answers_more_there(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight"

    def answering(name: str, rms: float) -> str:
        change: dict[str, torch.Tensor | None] = {f"{key}|guided_out": torch.full((2, 4), rms**2)}
        return str(measured(tmp_path / f"{name}.safetensors", {key: (4, 4)}, change=change))

    files = {"a": answering("a", 1.0), "b": answering("b", 2.0)}

    rows, lines = start_design(parts(["saliency"], saliency=files))
    assert lines == []
    assert rows[3]["IN04.alpha"] == pytest.approx(256 / 257)
    assert {rows[3][f"{block}.alpha"] for block in SD1.blocks if block != "IN04"} == {0.5}
    assert {rows[3][f"{block}.strength"] for block in SD1.blocks} == {1.0}
    rows, _ = start_design(parts(["saliency"], saliency={**files, "takes": "winner"}))
    assert {name.partition(".")[2] for name in rows[3]} == {"alpha"}
    save_file({key: torch.full((1, 4), 1e30)}, tmp_path / "much.safetensors")
    save_file({key: torch.full((1, 4), 1e-30)}, tmp_path / "little.safetensors")
    extremes = {name: str(tmp_path / f"{name}.safetensors") for name in ("much", "little")}
    rows, _ = start_design(parts(["saliency"], saliency={"a": extremes["much"], "b": extremes["little"]}))
    assert rows[3]["IN04.alpha"] == pytest.approx(0.0)
    rows, _ = start_design(parts(["saliency"], saliency={"a": extremes["little"], "b": extremes["much"]}))
    assert rows[3]["IN04.alpha"] == 1.0
    in_steps = parts(["saliency"], saliency=files)
    in_steps.steps = SimpleNamespace()
    with pytest.raises(ConfigError, match="anchors: saliency is for runs of model A and B, not for a recipe in steps"):
        start_design(in_steps)
    with pytest.raises(ConfigError, match=r"anchors: saliency compares both models; give  saliency\.a=FILE, too"):
        start_design(parts(["saliency"], saliency={"b": files["b"]}))
    silent: dict[str, torch.Tensor | None] = {f"{key}|{name}": None for name in ("guided_in", "guided_out", "guided_n")}
    files["b"] = str(measured(tmp_path / "silent.safetensors", {key: (4, 4)}, change=silent))
    with pytest.raises(ConfigError, match="anchors: saliency needs responses; measure with cfg_scale above 1"):
        start_design(parts(["saliency"], saliency=files))


@pytest.mark.parametrize(
    ("anchors", "words"),
    [
        (["salience"], "anchors: 'salience' is not .*did you mean saliency"),
        (["GRAD_W"], "anchors: 'GRAD_W' is not a weight string, preset, recipe file or study .*did you mean GRAD_"),
        (["portrait:3"], "'portrait' is not a weight string"),
        (["0.1,0.2"], "2 numbers for sd1; give 26"),
        ([{"beta": 0.5}], "no weight 'beta'"),
        ([{"alpha": "GRAD_W"}], "'GRAD_W' is not a preset"),
        ([{"alpha": [1, 2]}], "neither numbers nor the name of a preset"),
        (["nothing.json"], "no such file"),
        (
            ["GRAD_V", "GRAD_A", "OUT07", "OUT12", "WRAP08", "WRAP12"],
            "init_points: 8 trials are too few for the 9 anchors",
        ),
    ],
)
def test_an_anchor_that_means_nothing_is_one_line(anchors: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start_design(parts(anchors))


def test_a_merge_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    xl = ARCHITECTURES["sdxl"]
    weights = {"alpha": dict.fromkeys(xl.blocks, 0.5)}
    file.write_text(json.dumps({**recipe(weights).to_json(), "architecture": "sdxl"}))
    with pytest.raises(ConfigError, match="a merge of sdxl, these models are sd1"):
        start_design(parts([str(file)]))
