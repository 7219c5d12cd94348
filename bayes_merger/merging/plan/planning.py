"""The plan of a recipe: what happens to each tensor, with the recipe's numbers checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bayes_merger.checkpoints.blocks import Architecture, BlockWeights, Place
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.plan.routing import Checkpoints, MergePlan, PlanItem, listed, names_of, plan_structure
from bayes_merger.merging.recipe.elements import named_ratios
from bayes_merger.merging.recipe.postprocess import ADJUST, check_adjust, method_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe, known_architecture
from bayes_merger.merging.recipe.settings import VAE_FILE
from bayes_merger.merging.saliency.settings import MOVED, STRENGTH


def plan_recipe(recipe: MergeRecipe, checkpoints: Checkpoints, *, checked: bool = True) -> MergePlan:
    """The plan of a recipe in one step.

    Args:
        recipe: the merge.
        checkpoints: model name to what it is, file or computed.
        checked: whether its numbers are to be checked too.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """
    spec = recipe.spec
    models = [name for name in recipe.models or checkpoints if name != "vae" or recipe.vae != VAE_FILE]
    if not spec.takes(models):
        more = " and any number after them" if spec.many else ""
        raise ConfigError(f"recipe: {spec.name} takes models {names_of(spec.models)}{more}, not {names_of(models)}")
    spec = spec.bind(models, recipe.options)
    structure = plan_structure(spec, checkpoints, recipe)
    if recipe.architecture != structure.architecture.name:
        wanted = known_architecture(recipe.architecture)
        raise ConfigError(f"recipe: it is for {wanted}, and the models are {structure.architecture.name}")
    if not checked:
        return structure
    check_weights(recipe.weights, structure, recipe.vae)
    said = [*_extrapolations(recipe.weights, structure), *_unmoved(recipe.weights, structure)]
    return replace(structure, remarks=(*structure.remarks, *said))


def check_weights(weights: BlockWeights, structure: MergePlan, vae: str) -> None:
    """Refuse weights that do not give every block of every weight one sensible number.

    Raises:
        ConfigError: a weight or block is missing, unknown, out of bounds or at a pole.
    """
    spec, architecture = structure.method, structure.architecture
    named = named_ratios(structure.rules)
    if ADJUST in weights:
        check_adjust(weights[ADJUST], architecture.name)
        weights = method_weights(weights)
    for name in weights:
        if name not in spec.weights:
            raise ConfigError(f"weights: {spec.name} has no weight '{name}'; {nearest(name, spec.weights)}")
    for name in spec.weights:
        if name not in weights:
            raise ConfigError(f"weights: {spec.name} needs '{name}' and there is none; give it a number for each block")
        ratios = [ratio for ratio, driven in named.items() if name in driven]
        _check_blocks(name, weights[name], architecture, vae, ratios)
    for block in (*architecture.blocks, *architecture.slots):
        if any(block in blocks for blocks in weights.values()):
            spec.check(numbers_at(_place_of(block, architecture), weights), block)
    for item in {(item.place, item.rules): item for item in structure.items if item.rules}.values():
        spec.check(numbers_of(item, weights), f"'{item.rules[-1].text}'")


def _check_blocks(
    name: str, numbers: Mapping[str, float], architecture: Architecture, vae: str, ratios: Sequence[str]
) -> None:
    known = (*architecture.blocks, *architecture.slots, *ratios)
    for block, number in numbers.items():
        if block not in known:
            raise ConfigError(f"weights: '{block}' is not a block of {architecture.name}; {nearest(block, known)}")
        if block == "VAE" and "VAE" in architecture.slots and vae != "merge":
            raise ConfigError(f"weights: VAE.{name} has no effect, the VAE is model {vae.upper()}'s; set vae=merge")
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ConfigError(f"weights: {block}.{name} is {number!r}; give a finite number")
    lacking = [f"{block}.{name}" for block in architecture.blocks if block not in numbers]
    if lacking:
        raise ConfigError(f"weights: no number for {listed(lacking)}; every block of {architecture.name} needs one")
    lacking = [f"{ratio}.{name}" for ratio in ratios if ratio not in numbers]
    if lacking:
        raise ConfigError(f"weights: no number for {listed(lacking)}; an elemental rule names it")


def _place_of(block: str, architecture: Architecture) -> Place:
    """The block itself, or the block that a slot follows."""
    if architecture.whole is not None:  # the parts of a slot may lie in several blocks there
        return Place("block", block if block in architecture.blocks else architecture.blocks[0], block)
    follows = next((rule.block for rule in architecture.rules if rule.slot == block), block)
    return Place("block", follows, block)


def numbers_at(place: Place, weights: BlockWeights) -> dict[str, float]:
    """The method's weights for a tensor at ``place``: its slot's own where given, else its block's."""
    return {name: float(weights[name][source]) for name, source in _sources_at(place, weights).items()}


def _sources_at(place: Place, weights: BlockWeights) -> dict[str, str]:
    block, slot = place.block or "", place.slot or ""
    return {name: slot if slot in blocks else block for name, blocks in weights.items() if name != ADJUST}


def sources_of(item: PlanItem, weights: BlockWeights) -> dict[str, str | float]:
    """Where a tensor's weights come from: the block, slot or name that has the number, or the number of a rule."""
    sources: dict[str, str | float] = {**_sources_at(item.place, weights)}
    for rule in item.rules:
        sources |= dict(rule.ratios)
    return sources


def numbers_of(item: PlanItem, weights: BlockWeights) -> dict[str, float]:
    """The method's weights for a tensor: those of its place, then what elemental rules say."""
    return {
        name: float(weights[name][source]) if isinstance(source, str) else source
        for name, source in sources_of(item, weights).items()
    }


def _extrapolations(weights: BlockWeights, structure: MergePlan) -> list[str]:
    beyond = [
        f"{block}.{name} = {number:g}"
        for name, blocks in method_weights(weights).items()
        for block, number in blocks.items()
        if name != STRENGTH and not 0 <= number <= 1
    ]
    beyond += [
        f"'{rule.text}'"
        for rule in structure.rules
        if any(not isinstance(n, str) and name != STRENGTH and not 0 <= n <= 1 for name, n in rule.ratios)
    ]
    return [f"beyond [0, 1], so {structure.method.name} extrapolates: {listed(beyond)}"] if beyond else []


def _unmoved(weights: BlockWeights, structure: MergePlan) -> list[str]:
    if structure.tensor_weights is None or not structure.tensor_weights.saliency:
        return []
    merged = (numbers_of(item, weights) for item in structure.items if item.action == "merge")
    if any(0 < numbers[MOVED] < 1 and numbers.get(STRENGTH, 1) for numbers in merged):
        return []
    idle = "" if structure.tensor_weights.wins else f", or {STRENGTH} 0,"
    return [f"saliency moves nothing: {MOVED} is 0 or 1{idle} wherever something is merged"]
