"""``space.from_effect=effect.csv``: a search that leaves alone what has been measured to do little.

Of the weights whose blocks were measured, the strongest are searched that have ``keep`` of the effect together; the
others are frozen in the middle of their ranges, where at most half of what they do is missed. What was not measured is
searched. The table is read once, as a study begins: its settings then name what is frozen, and whoever goes on with it
needs no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, printable
from bayes_merger.paths import user_path
from bayes_merger.run.effect.table import BlockEffects, read_block_effects
from bayes_merger.run.spaces import make_space
from bayes_merger.search.space.from_effect import FROM_EFFECT, FromEffect, read_from_effect
from bayes_merger.search.space.space import Parameter, SearchSpace

if TYPE_CHECKING:
    from bayes_merger.run.setup import RunSetup

_WHERE = f"space.{FROM_EFFECT}"
_WEIGHT = "alpha"


def narrowed(setup: RunSetup) -> RunSetup:
    """A new study's setup whose space has lost the weights that do little, if its settings name a table of effects.

    Raises:
        ConfigError: the table cannot be used, or is of other models or another method.
        CheckpointError: a model file that cannot be read.
    """
    from bayes_merger.run.setup import check_sampler

    config = looked_up(setup.config, setup.checkpoints, setup.space)
    if config is setup.config:
        return setup
    space = make_space(config, setup.method, setup.architecture)
    check_sampler(setup.sampler, space, config)
    return replace(setup, config=config, space=space)


def looked_up(config: RunConfig, checkpoints: Mapping[str, Checkpoint], space: SearchSpace) -> RunConfig:
    """The settings with the names of what is frozen in the place of a table of effects, if they have one.

    Args:
        config: the settings.
        checkpoints: model name to opened file.
        space: what they search without the table.

    Raises:
        ConfigError: see :func:`narrowed`.
        CheckpointError: see :func:`narrowed`.
    """
    wanted = read_from_effect(config.space)
    if wanted is None or wanted.frozen is not None:
        return config
    if config.recipe:
        raise ConfigError(f"{_WHERE}: is about models A and B; a recipe in several steps is searched without it")
    try:
        known = read_block_effects(user_path(wanted.file), wanted.by)
        _check_origin(known, config, checkpoints, space)
    except ConfigError as error:
        raise ConfigError(f"{_WHERE}: {printable(wanted.file)} {error}") from None
    frozen, share = _least(space, known, wanted)
    found = replace(wanted, frozen=frozen, share=share, measure=known.by)
    return replace(config, space={**config.space, FROM_EFFECT: found.to_json()})


def _check_origin(
    known: BlockEffects, config: RunConfig, checkpoints: Mapping[str, Checkpoint], space: SearchSpace
) -> None:
    from bayes_merger.run.models import merge_settings

    method = merge_settings(config).spec.name
    if known.method != method:
        raise ConfigError(f"is of method '{printable(known.method)}', and this run merges by '{method}'")
    for name, sha256 in known.models.items():
        if sha256 != checkpoints[name].sha256():
            own = f"{checkpoints[name].path.name} ({checkpoints[name].sha256()[:10]})"
            raise ConfigError(f"is of another model {name.upper()} ({printable(sha256[:10])}), not of {own}; measure "
                              "this pair with  bayes-merger effect")  # fmt: skip
    if odd := [block for block in known.sizes if block not in space.blocks]:
        raise ConfigError(f"has a block '{printable(odd[0])}', which these models have not")


def _least(space: SearchSpace, known: BlockEffects, wanted: FromEffect) -> tuple[dict[str, float], float]:
    """Of the weights that do least: each and its value; and the share of the effect that they have together."""
    sizes = {p: size for p in space.parameters if (size := _size(p, known)) is not None}
    total, left = sum(sizes.values()), 0.0
    frozen: dict[str, float] = {}
    for parameter, size in sorted(sizes.items(), key=lambda each: each[1]):
        if not total or (total - left - size) / total < wanted.keep - 1e-9:
            break
        left += size
        at = (parameter.low + parameter.high) / 2 if wanted.at is None else wanted.at
        if not parameter.low <= at <= parameter.high:
            raise ConfigError(f"{_WHERE}.at: {at:g} is outside the range of {parameter.name}, {parameter.low:g} ... "
                              f"{parameter.high:g}")  # fmt: skip
        frozen |= dict.fromkeys(parameter.drives, at)
    return frozen, left / total if total else 0.0


def _size(parameter: Parameter, known: BlockEffects) -> float | None:
    """How much a number does; None where that was not measured, or the models are equal anyhow."""
    places = [name.rpartition(".") for name in parameter.drives]
    if not all(weight == _WEIGHT and block in (*known.sizes, *known.equal) for block, _, weight in places):
        return None
    sizes = [known.sizes[block] for block, _, _ in places if block in known.sizes]
    return sum(sizes) if sizes else None
