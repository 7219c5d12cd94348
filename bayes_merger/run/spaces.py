"""What a run searches: the space of its weights, of the names in its rules and recipe, and of its adjustments."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bayes_merger.checkpoints.architectures import divided
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.recipe.elements import named_ratios, parse_rules
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTMENT_RANGE, read_adjust
from bayes_merger.merging.recipe.step_file import StepFile, free_numbers
from bayes_merger.merging.saliency.settings import STRENGTH, WINNER, is_strength, no_strength
from bayes_merger.search.space.from_effect import FROM_EFFECT
from bayes_merger.search.space.guide import space_from_guide
from bayes_merger.search.space.space import Parameter, SearchSpace

AUTO = "auto"
"""In the place of groups: those of ``usual_groups``."""

_NEIGHBOURS: Mapping[str, Mapping[str, int]] = {
    "sd3-large": {"IN": 2},
    "flux": {"D": 2, "S": 3},
}
"""Architectures with more blocks than a search of a few hundred trials can tell apart -> how many share a number."""


def usual_groups(architecture: Architecture) -> list[list[str]]:
    """The blocks that share a number unless the user says otherwise: none where there are few."""
    groups = []
    for letters, count in _NEIGHBOURS.get(architecture.name, {}).items() if architecture.whole is None else ():
        blocks = [block for block in architecture.blocks if re.fullmatch(rf"{letters}\d+", block)]
        groups += [blocks[at : at + count] for at in range(0, len(blocks), count)]
    return [group for group in groups if len(group) > 1]


def usual_numbers(architecture: Architecture, weights: Collection[str]) -> str:
    """What a space without rules searches, in words: `26 numbers, one for each block`.

    Args:
        architecture: of the models.
        weights: of the merge.
    """
    groups = usual_groups(architecture)
    together = {block: group for group in groups for block in group}
    each = ["+".join(together.get(b, [b])) for b in architecture.blocks if together.get(b, [b])[0] == b]
    own = [weight for weight in weights if weight != STRENGTH]
    count = len(each) * len(own) + (STRENGTH in weights)
    blocks = f"each of {', '.join(each)}" if groups else "each block"
    strength = ", and one strength for all" * (STRENGTH in weights)
    return f"{count} numbers, {' and '.join(own) if len(own) > 1 else 'one'} for {blocks}{strength}"


def rules_for(space: Mapping[str, Any], architecture: Architecture) -> Mapping[str, Any]:
    """The rules of a space, with groups in the place of the word for them."""
    return {**space, "groups": usual_groups(architecture)} if space.get("groups") == AUTO else space


def make_space(config: RunConfig, spec: MethodSpec, architecture: Architecture) -> SearchSpace:
    """What is searched: every block, the slots that a rule of the space names, and the names in elemental rules.

    Raises:
        ConfigError: a rule that makes no sense.
    """
    ruled = json.dumps({kind: rules for kind, rules in config.space.items() if kind != FROM_EFFECT})
    slots = [slot for slot in architecture.slots if re.search(rf"\b{slot}\b", ruled, re.IGNORECASE)]
    named = named_ratios(parse_rules(config.elements, architecture, tuple(spec.weights)))
    ratios = [
        Parameter(name, 0.0, 1.0, tuple(f"{name}.{weight}" for weight in driven)) for name, driven in named.items()
    ]
    weights = {name: (weight.low, weight.high) for name, weight in spec.weights.items()}
    given, adjusted = adjustments(config, (*named, *weights, *architecture.blocks, *architecture.slots))
    rules = rules_for(config.space, architecture)
    if STRENGTH not in weights:
        _check_no_strength(rules, {*named, *(one.name for one in adjusted)}, config.saliency.get("takes"))
    elif not _divides_strength(rules):
        rules = _one_strength(rules, architecture.blocks, tuple(weights))
    return space_from_guide((*architecture.blocks, *slots), weights, rules, [*ratios, *adjusted], given)


def _check_no_strength(rules: Mapping[str, Any], others: Collection[str], takes: str | None) -> None:
    """Refuse rules about a strength that a merge has not.

    Args:
        rules: of the space.
        others: names that are other numbers'.
        takes: what the more salient model gets; None without a file of activations.
    """
    for name in re.findall(r'"([^"]*)"', json.dumps({k: rule for k, rule in rules.items() if k != FROM_EFFECT})):
        if is_strength(name) and name.rpartition(".")[2] not in others:
            raise ConfigError(f"space: {name}: {no_strength(takes)}")


def _divides_strength(rules: Mapping[str, Any]) -> bool:
    """Whether rules of a space are about the strength of some blocks; one range for all leaves them one strength."""
    ranges = rules.get("ranges")
    if isinstance(ranges, Mapping):
        ranges = {name: value for name, value in ranges.items() if str(name).lower() != STRENGTH}
    others = {kind: value for kind, value in rules.items() if kind != FROM_EFFECT}
    return bool(re.search(rf"\b{STRENGTH}\b", json.dumps({**others, "ranges": ranges})))


def _one_strength(rules: Mapping[str, Any], blocks: Sequence[str], weights: Sequence[str]) -> Mapping[str, Any]:
    """The rules of a space that say nothing of the strength, with one strength for all blocks.

    Groups of blocks are for the other weights then, and a block of which another rule speaks has its own.
    """
    named = {str(name).partition(".")[0].upper() for kind in ("frozen", "ranges") for name in rules.get(kind) or ()}
    groups: list[Any] = []
    for group in rules.get("groups") or ():
        bare = isinstance(group, Sequence) and all("." not in str(n) and str(n).lower() not in weights for n in group)
        groups += [[f"{n}.{w}" for n in group] for w in weights if w != STRENGTH] if bare else [group]
    together = [f"{block}.{STRENGTH}" for block in blocks if block not in named]
    return {**rules, "groups": [*groups, together] if len(together) > 1 else groups}


def adjustments(config: RunConfig, taken: Collection[str]) -> tuple[dict[str, float], list[Parameter]]:
    """The adjustments that a run is given, and those that it searches.

    Raises:
        ConfigError: they make no sense, or a name is taken.
    """
    if config.adjust is None or config.adjust == []:
        return {}, []
    given: dict[str, float] = {}
    searched: dict[str, tuple[str, ...]] = {}
    for name, number in read_adjust(config.adjust).items():
        place = f"{name}.{ADJUST}"
        if not isinstance(number, str):
            given[place] = float(number)
        elif number in taken or number.upper() in taken:
            raise ConfigError(f"adjust: '{number}' is the name of something else; choose another for a number")
        else:
            searched[number] = (*searched.get(number, ()), place)
    return given, [Parameter(name, *ADJUSTMENT_RANGE, drives) for name, drives in searched.items()]


def make_steps_space(
    config: RunConfig, file: StepFile, architecture: Architecture, loras: Collection[str] = ()
) -> SearchSpace:
    """What a recipe leaves open: its names, and the blocks of weights that say ``search``.

    Args:
        config: the settings.
        file: the recipe.
        architecture: of its models.
        loras: its models that are LoRAs.

    Raises:
        ConfigError: a number or a rule that makes no sense, or nothing is open.
    """
    architecture = divided(architecture, file.settings.blocks)
    weights = {name: (weight.low, weight.high) for name, weight in file.weights.items()}
    try:
        numbers = free_numbers(file, architecture, loras)
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None
    beyond = [place for place in numbers.searched if place.partition(".")[0] not in architecture.blocks]
    if beyond:
        raise ConfigError(f"recipe: {beyond[0]}: parts of blocks take a name instead of  search")
    if not numbers.names and not numbers.searched and config.adjust is None:
        raise ConfigError("recipe: it leaves no number open; write a name, or  search,  in the place of one")
    ratios = [Parameter(name, *weights[drives[0].partition(".")[2]], drives) for name, drives in numbers.names.items()]
    given, adjusted = adjustments(config, (*numbers.names, *weights, *architecture.blocks, *architecture.slots))
    if any(step.saliency.get("takes") == WINNER for step in file.steps):
        _check_no_strength(config.space, {*weights, *numbers.names, *(one.name for one in adjusted)}, WINNER)
    return space_from_guide(
        architecture.blocks,
        weights,
        rules_for(config.space, architecture),
        [*ratios, *adjusted],
        {**numbers.fixed, **given},
    )
