"""The steps of a recipe, each for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.recipe import MergeRecipe, RecipeStep
from bayes_merger.merging.recipe.settings import VAE_FILE


def alone(recipe: MergeRecipe, step: RecipeStep) -> MergeRecipe:
    """One step of a recipe as a recipe; only the last one is rounded to the recipe's dtype."""
    is_last = step is recipe.steps[-1]
    return replace(
        recipe,
        method=step.method,
        models={},
        weights=weights_of(step, recipe.weights, adjusted=is_last),
        dtype=recipe.dtype if is_last else "fp32",
        vae=VAE_FILE if is_last and recipe.vae == VAE_FILE else step.vae,
        clip=recipe.clip if is_last else "",
        options=step.options,
        elements=step.elements,
        saliency=step.saliency,
        act=step.act,
        steps=(),
    )


def weights_of(step: RecipeStep, weights: BlockWeights, *, adjusted: bool = False) -> dict[str, Mapping[str, float]]:
    """The weights of one step among those of all, by the names that its method gives them.

    Args:
        step: the step.
        weights: of all steps.
        adjusted: whether to include the adjustments, which apply to the result of the last step.
    """
    names = {name: step.weight(name) for name in step.spec.weights}
    own = {name: weights[full] for name, full in names.items() if full in weights}
    return own | ({ADJUST: weights[ADJUST]} if adjusted and ADJUST in weights else {})
