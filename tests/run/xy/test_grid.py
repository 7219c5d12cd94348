"""The order in which a grid's merges are made, and which of them are one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bayes_merger.merging import MergeRecipe, open_checkpoint
from bayes_merger.merging.recipe.recipe import ModelRef
from bayes_merger.run.xy.grid import Merge, in_order
from tests.merging.tiny_models import write_model


def merges(folder: Path, numbers: Sequence[Sequence[float]], method: str = "weighted_sum") -> list[Merge]:
    """Of three tensors, the last of which is large."""
    models = {"a": open_checkpoint(write_model(folder / "a.safetensors", 1))}
    recipe = MergeRecipe(method=method, models={"a": ModelRef("a", "1")}, weights={}, architecture="sd1")
    sizes, texts = np.array([1.0, 1.0, 10.0]), np.array([True, False, False])
    return [Merge(recipe, models, np.array(own)[:, None], sizes, texts) for own in numbers]


def test_equal_merges_are_one_and_the_next_changes_least(tmp_path: Path) -> None:
    one, far, near, again, last = merges(tmp_path, [(0, 0, 0), (0, 0, 1), (1, 1, 0), (0, 0, 0), (1, 0, 1)])
    assert one.key == again.key
    assert in_order([one, far, near, again, last]) == [one, near, last, far]
    assert one.words_key == far.words_key != near.words_key


def test_those_of_a_method_stay_together(tmp_path: Path) -> None:
    one, two = merges(tmp_path, [(0, 0, 0), (1, 1, 1)])
    other, another = merges(tmp_path, [(0, 0, 0), (1, 1, 1)], "slerp")
    assert one.key != other.key
    assert in_order([one, other, two, another]) == [one, two, other, another]
