"""What a plan says a merge takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.method import METHODS, method_spec
from bayes_merger.merging.plan.costs import bytes_read, result_size, seconds, working_memory
from tests.merging.tiny_models import opened, recipe_of


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_cost_and_only_what_works_on_whole_tensors_needs_copies(method: str) -> None:
    spec, cost = method_spec(method), method_spec(method).cost
    assert cost.time >= 0
    assert (cost.copies == 0) == (spec.elementwise and spec.prepare is None and spec.statistic is None)


def test_bytes_and_time_by_hand(tmp_path: Path) -> None:
    """The models' 7084 merged numbers are halves, the largest tensor has 288; 416 bytes are copied from A."""
    models = opened(tmp_path)
    moderate, dear = (plan(recipe_of(models, method=method), models) for method in ("slerp", "rotate"))
    assert result_size(moderate) == 14_584  # 2 * 7084 + 416
    assert bytes_read(moderate, models) == 28_752  # 2 models * 2 * 7084 + 416
    # 0.35 s per gigabyte and 4 ns per number
    assert seconds(moderate, models) == pytest.approx(15.1676e-6 + 28.336e-6)
    # and 20 ns per number and 0.15 ns per number and shorter side of its matrix, 42,237 together
    assert seconds(dear, models) == pytest.approx(15.1676e-6 + 141.68e-6 + 6.33555e-6)
    assert working_memory(moderate) == 3_456  # three float32 tensors of 288
    assert working_memory(dear) == 13_824  # twelve of them
    for model in models.values():
        model.close()
