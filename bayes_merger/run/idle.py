"""Weights that change nothing: found before a study begins, frozen, and told about."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from bayes_merger.checkpoints.blocks import blocks_to_string
from bayes_merger.search.space.guide import keeps_idle
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.checked import answered_once
from bayes_merger.search.study.history import DESIGN

if TYPE_CHECKING:
    from bayes_merger.run.setup import RunSetup

SEARCH_ALL = "space.idle=keep searches them all the same"


def without_idle(setup: RunSetup) -> RunSetup:
    """A new study's setup whose space has lost the weights that change nothing; reads the models as far as it must.

    Raises:
        ConfigError: no weight changes anything, or the optimiser cannot search what is left.
        CheckpointError: a model file that cannot be read.
    """
    from bayes_merger.merging.engine.idle import idle_weights

    space = setup.space
    if keeps_idle(setup.config.space):
        return setup
    least, greatest = (space.assemble({p.name: getattr(p, end) for p in space.parameters}) for end in ("low", "high"))
    return _frozen(setup, idle_weights(setup.recipe(least, hashed=False), setup.checkpoints, greatest))


def with_stored_idle(setup: RunSetup, stored: Mapping[str, Any]) -> RunSetup:
    """The setup of a study that exists, with the space that it was begun with.

    Args:
        setup: from its settings.
        stored: its attributes; a study from before idle weights were looked for has none.
    """
    return _frozen(setup, SearchSpace.from_json(stored[DESIGN]["space"]).idle)


def _frozen(setup: RunSetup, names: Container[str]) -> RunSetup:
    from bayes_merger.run.setup import check_sampler

    space = setup.space.without_idle(names)
    if space.idle:
        check_sampler(setup.sampler, space, setup.config)
    return replace(setup, space=space)


@answered_once
def space_of(study: Study) -> SearchSpace:
    """What a study searches."""
    return SearchSpace.from_json(study.user_attrs[DESIGN]["space"])


ANCHORS = {0.0: "model A", 1.0: "model B", 0.5: "even mix"}
"""Alpha of a weighted sum -> what its merge is."""


def anchor_of(method: str, weights: Mapping[str, Mapping[str, float]], idle: Collection[str]) -> str:
    """``model A``, ``model B`` or ``even mix``, if the merge is that; idle weights do not matter.

    Args:
        method: of the merge.
        weights: weight name -> block -> number.
        idle: ``BLOCK.weight`` of those that change nothing.
    """
    numbers = (number for block, number in weights.get("alpha", {}).items() if f"{block}.alpha" not in idle)
    first = next(numbers, None) if method == "weighted_sum" else None
    return ANCHORS[first] if first in ANCHORS and all(number == first for number in numbers) else ""


def about_idle(space: SearchSpace) -> str:
    """What is said of the weights that are not searched because they change nothing; empty where there are none."""
    count = len(space.idle) + sum(len(parameter.drives) for parameter in space.parameters)
    return idle_text(space.idle, count, space.blocks) if space.idle else ""


def idle_text(idle: Collection[str], count: int, order: Sequence[str]) -> str:
    """How many of the weights change nothing, and which.

    Args:
        idle: as in ``IN00.alpha``.
        count: of all weights that are searched, or could be.
        order: of the blocks.
    """
    return f"{len(idle)} of {count} weights change nothing: the models are equal there ({_listed(idle, order)})"


def _listed(idle: Iterable[str], order: Sequence[str]) -> str:
    """In few words: the blocks alone where there is one weight."""
    blocks: dict[str, list[str]] = {}
    for name in idle:
        place, _, weight = name.rpartition(".")
        blocks.setdefault(weight, []).append(place)
    each = {weight: blocks_to_string(places, order) for weight, places in blocks.items()}
    return each.popitem()[1] if len(each) == 1 else "; ".join(f"{weight}: {text}" for weight, text in each.items())
