"""What a plan says a merge takes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.method import METHODS, method_spec
from bayes_merger.merging.plan.costs import bytes_read, result_size, seconds, working_memory
from bayes_merger.merging.recipe.recipe import MergeRecipe
from tests.merging.tiny_models import write_model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_cost_and_only_what_works_on_whole_tensors_needs_copies(method: str) -> None:
    spec, cost = method_spec(method), method_spec(method).cost
    assert cost.time >= 0
    assert (cost.copies == 0) == (spec.elementwise and spec.prepare is None and spec.statistic is None)


def test_bytes_and_time_by_hand(tmp_path: Path) -> None:
    files = {name: write_model(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab")}
    models = {name: open_checkpoint(path) for name, path in files.items()}
    layout = models["a"].architecture
    recipe = MergeRecipe(
        method="slerp", models={}, weights={"alpha": dict.fromkeys(layout.blocks, 0.5)}, architecture=layout.name
    )
    planned = plan(recipe, models)
    merged = [step for step in planned.written if step.action == "merge"]
    kept = [step for step in planned.written if step.action != "merge"]
    numbers = sum(math.prod(step.shape) for step in merged)
    assert result_size(planned) == sum(
        math.prod(step.shape) * (8 if step.dtype == "I64" else 2) for step in planned.written
    )
    assert bytes_read(planned, models) == 4 * numbers + sum(
        math.prod(step.shape) * (8 if step.dtype == "I64" else 2) for step in kept
    )
    moved = (bytes_read(planned, models) + result_size(planned)) / 1e9
    assert seconds(planned, models) == pytest.approx(0.35 * moved + method_spec("slerp").cost.time * 1e-9 * numbers)
    largest = max(math.prod(step.shape) for step in merged)
    assert working_memory(planned) == max(4 * largest * 3, round(4 * largest * method_spec("slerp").cost.copies))
    for model in models.values():
        model.close()
