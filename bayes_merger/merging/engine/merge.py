"""Merging on the CPU: the plan of a recipe, and the merged model as a stream of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bayes_merger.merging.engine.key_merger import KeyMerger
from bayes_merger.merging.engine.multi_step import named, unfold
from bayes_merger.merging.plan.planning import plan_recipe
from bayes_merger.merging.plan.routing import Checkpoints, MergePlan
from bayes_merger.merging.recipe.recipe import MergeRecipe

if TYPE_CHECKING:
    from torch import Tensor


def plan(recipe: MergeRecipe, checkpoints: Checkpoints) -> MergePlan:
    """What a recipe does to each tensor of these checkpoints, its last step if it has several; reads headers only.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file, for every model of the method.

    Raises:
        ConfigError: unknown method, block or dtype; weights missing, extra or at a pole.
        CheckpointError: models that do not fit together.
    """

    unfolded = unfold(recipe, checkpoints)
    unfolded.set(recipe)
    if not recipe.steps:
        return plan_recipe(unfolded.last, unfolded.models)
    with named(recipe.steps[-1]):
        return replace(plan_recipe(unfolded.last, unfolded.models), step=recipe.steps[-1].name)


def prepare(recipe: MergeRecipe, checkpoints: Checkpoints) -> tuple[MergePlan, KeyMerger]:
    """The plan of a merge, and what computes its tensors.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """

    planned = plan(recipe, checkpoints)
    unfolded = unfold(recipe, checkpoints)
    unfolded.set(recipe)
    return planned, KeyMerger(planned, unfolded.last.weights, unfolded.models)


def merge(recipe: MergeRecipe, checkpoints: Checkpoints) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the merged model, one after another, on the CPU and in the recipe's dtype.

    A tensor that is kept as it is may be mapped from its file: do not write to it.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """
    planned, merger = prepare(recipe, checkpoints)
    return ((item.key, merger.tensor(item)) for item in planned.written)
