from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.errors import CheckpointError, ConfigError, UserError
from bayes_merger.merging import SD1, Checkpoint, MergeRecipe, ModelRef, open_checkpoint
from bayes_merger.merging.engine.merge import plan
from tests.merging.tiny_models import FIRST, IDS, TEXT, UNET, VAE, even, opened, recipe_of, write_model

Models = dict[str, Checkpoint]


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return opened(tmp_path)


def with_b(models: Models, tmp_path: Path, **change: torch.Tensor | None) -> Models:
    changes = {{"first": FIRST, "text": TEXT, "vae": VAE}.get(k, k): v for k, v in change.items()}
    return models | {"b": open_checkpoint(write_model(tmp_path / "changed.safetensors", 2, change=changes))}


def test_a_recipe_survives_json_to_the_last_bit() -> None:
    weights = {"alpha": {b: (i + 0.1) / 3 for i, b in enumerate(SD1.blocks)}, "beta": dict.fromkeys(SD1.blocks, 1e-17)}
    refs = {name: ModelRef(f"{name}.safetensors", "0" * 64) for name in "abc"}
    recipe = MergeRecipe(
        method="sum_twice", models=refs, weights=weights, architecture="sd1", dtype="bf16", vae="merge"
    )
    assert MergeRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    plain = MergeRecipe(models=refs, weights=weights, architecture="sd1")
    assert MergeRecipe.from_json(json.loads(json.dumps(plain.to_json()))) == plain
    assert plain.with_weights(even("1")) == replace(plain, weights=even("1"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metod": "x"}, "'metod' is not a field of it; did you mean method"),
        ({"method": None}, "method is None"),
        ({"weights": [1]}, "weights is not a table"),
        ({"weights": {"alpha": {"BASE": "x"}}}, "BASE.alpha is 'x'"),
        ({"weights": {"alpha": {"BASE": True}}}, "BASE.alpha is True"),
        ({"models": {"a": "a.safetensors"}}, "models is not a table"),
        ({"models": {"a": {"path": 1, "sha256": ""}}}, "path is 1"),
        ({"dtype": 16}, "dtype is 16"),
    ],
)
def test_a_recipe_of_the_wrong_form_is_refused(change: dict[str, Any], words: str) -> None:
    data = MergeRecipe(models={}, weights=even(), architecture="sd1").to_json()
    with pytest.raises(ConfigError, match=words):
        MergeRecipe.from_json(data | change)
    for name in ("method", "models", "weights", "architecture"):
        with pytest.raises(ConfigError, match=f"there is no '{name}'"):
            MergeRecipe.from_json({k: v for k, v in data.items() if k != name})


def test_a_plan_says_what_happens_to_every_tensor(models: Models) -> None:
    planned = plan(recipe_of(models), models)
    steps = {step.key: step for step in planned.items}
    assert set(steps) == set(models["a"].shapes)
    assert (steps[FIRST].action, steps[FIRST].block, steps[FIRST].dtype) == ("merge", "IN00", "F16")
    assert (steps[UNET + "time_embed.0.weight"].block, steps[UNET + "out.2.weight"].block) == ("BASE", "OUT11")
    assert (steps[TEXT].action, steps[TEXT].block) == ("merge", "BASE")
    assert (steps[VAE].action, steps[VAE].source, steps[VAE].block) == ("keep", "a", None)
    assert (steps[IDS].action, steps[IDS].dtype) == ("keep", "I64")
    assert (planned.dtype, planned.missing, planned.notes) == ("fp16", (), ())


def test_the_vae_may_be_merged_or_taken_from_b(models: Models) -> None:
    merged = {s.key: s for s in plan(recipe_of(models, vae="merge"), models).items}[VAE]
    assert (merged.action, merged.block) == ("merge", "BASE")
    copied = {s.key: s for s in plan(recipe_of(models, vae="b"), models).items}[VAE]
    assert (copied.action, copied.source) == ("copy", "b")
    with pytest.raises(ConfigError, match="vae: 'c' is unknown; give a, b, merge or the name of a file"):
        plan(recipe_of(models, vae="c"), models)


def test_keys_that_b_lacks_are_kept_and_listed(models: Models, tmp_path: Path) -> None:
    planned = plan(recipe_of(models), with_b(models, tmp_path, text=None))
    assert planned.missing == (TEXT,)
    assert planned.notes == (f"kept from A, since another model lacks them: {TEXT}",)
    step = {s.key: s for s in planned.items}[TEXT]
    assert (step.action, step.why) == ("keep", "not in B")


def test_keys_that_a_lacks_are_left_out_and_listed(models: Models, tmp_path: Path) -> None:
    lacking = write_model(tmp_path / "lacking.safetensors", 1, change={TEXT: None})
    planned = plan(recipe_of(models), models | {"a": open_checkpoint(lacking)})
    assert planned.notes == (f"left out, since model A lacks them: {TEXT}",)
    with pytest.raises(ConfigError, match=r"model B .* has no VAE"):
        plan(recipe_of(models, vae="b"), with_b(models, tmp_path, vae=None))


def test_ema_and_schedule_are_dropped_and_strangers_kept(tmp_path: Path) -> None:
    extra = {
        "model_ema.decay": torch.zeros(()), "betas": torch.zeros(5), "ztsnr": torch.zeros(0),
        "stranger": torch.zeros(2), UNET + "input_blocks.0.0.steps": torch.zeros(2, dtype=torch.int32),
    }  # fmt: skip
    models = opened(tmp_path)
    models["a"] = open_checkpoint(write_model(tmp_path / "extra.safetensors", 1, change=extra))
    steps = {s.key: s for s in plan(recipe_of(models), models).items}
    assert [steps[key].action for key in extra] == ["drop", "drop", "keep", "keep", "keep"]
    assert steps["ztsnr"].dtype == "F32"
    assert steps["stranger"].dtype == "F16"


def test_a_flag_of_b_is_copied_and_its_other_extra_tensors_are_not(models: Models, tmp_path: Path) -> None:
    found = with_b(models, tmp_path, ztsnr=torch.zeros(0), stranger=torch.zeros(2))
    steps = {s.key: s for s in plan(recipe_of(models), found).items}
    assert (steps["ztsnr"].action, steps["ztsnr"].source) == ("copy", "b")
    assert steps["stranger"].action == "drop"


@pytest.mark.parametrize(
    ("dtype", "asked", "given"),
    [
        (torch.float16, None, "fp16"), (torch.float32, "auto", "fp32"), (torch.bfloat16, None, "bf16"),
        (torch.float16, "fp32", "fp32"),
    ],
)  # fmt: skip
def test_the_dtype_is_that_of_model_a_unless_one_is_asked_for(
    tmp_path: Path, dtype: torch.dtype, asked: str | None, given: str
) -> None:
    models = opened(tmp_path, dtype=dtype)
    assert plan(recipe_of(models, dtype=asked), models).dtype == given


def changed(**weights: Any) -> dict[str, dict[str, float]]:
    return {"alpha": even()["alpha"] | weights}


NOT_ALL = {"alpha": {b: 0.5 for b in SD1.blocks if b not in ("IN03", "M00")}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: replace(r, method="weigthed_sum"), "did you mean weighted_sum"),
        (lambda r: replace(r, method="add_difference"), "takes models a, b, c, not a, b"),
        (lambda r: replace(r, architecture="sd9"), "architecture 'sd9' is unknown"),
        (lambda r: replace(r, dtype="fp8"), "'fp8' is unknown; give fp16, bf16, fp32, fp8_e4m3fn, fp8_e5m2 or auto"),
        (lambda r: replace(r, weights={}), "weighted_sum needs 'alpha'"),
        (lambda r: replace(r, weights=even(method="sum_twice")), "has no weight 'beta'"),
        (lambda r: replace(r, weights=NOT_ALL), "no number for IN03.alpha, M00.alpha"),
        (lambda r: replace(r, weights=changed(IN99=0.5)), "'IN99' is not a block of sd1"),
        (lambda r: replace(r, weights=changed(IN00=float("nan"))), "IN00.alpha is nan; give a finite number"),
        (lambda r: replace(r, weights=changed(IN00="0.5")), "IN00.alpha is '0.5'"),
        (lambda r: replace(r, weights=changed(VAE=0.5)), "VAE.alpha has no effect"),
        (
            lambda r: replace(r, method="weighted_subtraction", weights=even("1", "weighted_subtraction")),
            "weights of BASE: weighted_subtraction divides by",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(
    models: Models, change: Callable[[MergeRecipe], MergeRecipe], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        plan(change(recipe_of(models)), models)
    assert "\n" not in str(error.value)


def test_weights_beyond_0_and_1_are_allowed_and_noted(models: Models) -> None:
    planned = plan(recipe_of(models, changed(IN00=1.5)), models)
    assert planned.notes == ("beyond [0, 1], so weighted_sum extrapolates: IN00.alpha = 1.5",)


def test_a_finer_slot_may_have_a_weight_of_its_own(models: Models) -> None:
    plan(recipe_of(models, changed(TIME=0.1, TE=0.2, OUT=0.3)), models)
    plan(recipe_of(models, changed(VAE=0.1), vae="merge"), models)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {FIRST: torch.zeros(8, 9, 3, 3)},
            r"\[8, 4, 3, 3\] in A \(a.safetensors\) and \[8, 9, 3, 3\] in B \(changed.*inpai",
        ),
        ({TEXT: torch.zeros(3, 3)}, r"\[11, 4\] in A \(a.safetensors\) and \[3, 3\] in B"),
        ({TEXT: torch.zeros(3, 3), FIRST: torch.zeros(1)}, "and 1 more"),
        ({"cond_stage_model.model.x": torch.zeros(1)}, "A .a.safetensors. is a .* 1.x .*; B .changed.* is a .* 2.x"),
        ({"v_pred": torch.zeros(0)}, "B predicts v and A noise"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(
    models: Models, tmp_path: Path, change: dict[str, torch.Tensor], words: str
) -> None:
    found = with_b(models, tmp_path, **change)
    with pytest.raises(CheckpointError, match=words) as error:
        plan(recipe_of(models), found)
    assert "\n" not in str(error.value)


def test_models_that_were_not_opened_are_named(models: Models) -> None:
    with pytest.raises(ConfigError, match="takes models a, b, and a are open"):
        plan(recipe_of(models), {"a": models["a"]})


@pytest.mark.skipif("BAYES_MERGER_FACTS" not in os.environ, reason="BAYES_MERGER_FACTS names no folder of key lists")
def test_a_plan_for_a_full_size_model_needs_milliseconds_and_a_sparse_file(tmp_path: Path) -> None:
    facts = json.loads((Path(os.environ["BAYES_MERGER_FACTS"]) / "keys" / "sd1.json").read_text())
    table, begin = {}, 0
    for key, about in facts.items():
        size = 2
        for length in about["shape"]:
            size *= length
        table[key] = {"dtype": "F16", "shape": about["shape"], "data_offsets": [begin, begin + size]}
        begin += size
    header = json.dumps(table).encode()
    path = tmp_path / "full.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + begin)
    with open_checkpoint(path) as a, open_checkpoint(path) as b:
        refs = {"a": ModelRef(str(path), ""), "b": ModelRef(str(path), "")}
        planned = plan(MergeRecipe(models=refs, weights=even(), architecture="sd1"), {"a": a, "b": b})
    assert sum(step.action == "merge" for step in planned.items) == 686 + 196
    assert sum(step.action == "drop" for step in planned.items) == 688 + 12
    assert issubclass(CheckpointError, UserError)
