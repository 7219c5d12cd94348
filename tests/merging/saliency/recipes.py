"""Merges of the tiny models in whose tensors weights differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bayes_merger.merging import SD1, Checkpoint, MergeRecipe
from tests.merging.tiny_models import SHAPES, even, recipe_of

WIDE = {key: shape for key, shape in SHAPES.items() if len(shape) > 1 and key.startswith("model.")}
"""The weights that can be measured, and their shapes."""


def recipe(
    models: dict[str, Checkpoint], alpha: str = "0.5", strength: float = 1.0, method: str = "weighted_sum", **more: Any
) -> MergeRecipe:
    """A merge with one alpha and, where it has saliency, one strength for all blocks."""
    weights = even(alpha, method)
    if "saliency" in more:
        weights["strength"] = dict.fromkeys(SD1.blocks, strength)
    return replace(recipe_of(models, weights, method, "fp32"), **more)
