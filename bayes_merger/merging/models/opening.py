"""The models of a merge, opened: LoRAs on model A, the others under its names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.models.aligned import aligned
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.rebasin.model import AlignedModel
from bayes_merger.merging.rebasin.settings import Alike, check_rebasin
from bayes_merger.merging.recipe.recipe import MergeRecipe, ModelRef
from bayes_merger.merging.recipe.step_file import StepFile
from bayes_merger.paths import user_path


@contextmanager
def closed_on_error(checkpoints: Mapping[str, Checkpoint]) -> Iterator[None]:
    """Close opened models after an error, since the caller never gets them."""
    try:
        yield
    except BaseException:
        for checkpoint in checkpoints.values():
            checkpoint.close()
        raise


def open_each(
    paths: Mapping[str, str], *, alone: bool = False, rebasin: Mapping[str, Alike] = MappingProxyType({})
) -> dict[str, Checkpoint]:
    """The models given by these paths; LoRAs among them are applied to model A.

    Args:
        paths: model name to file.
        alone: leave LoRAs as they are: the steps of a recipe say what they are applied to.
        rebasin: those of the models whose neurons are put in another's order.

    Raises:
        ConfigError: a setting of ``rebasin`` that does not fit the models.
        CheckpointError: as ``open_model``; models whose neurons cannot be compared.
    """
    opened: dict[str, Checkpoint] = {}
    with closed_on_error(opened):
        for name in sorted(paths):
            opened[name] = open_model(name, paths[name], None if alone or name == "vae" else opened.get("a"))
        return in_order(opened, rebasin)


def in_order(opened: Mapping[str, Checkpoint], rebasin: Mapping[str, Alike]) -> dict[str, Checkpoint]:
    """Opened models, those of ``rebasin`` with their neurons in another's order.

    Raises:
        ConfigError: a setting of ``rebasin`` that does not fit the models.
        CheckpointError: models whose neurons cannot be compared.
    """
    check_rebasin(rebasin, opened)
    found = dict(opened)
    for name, alike in rebasin.items():
        try:
            found[name] = AlignedModel(opened[name], opened[alike["to"]], alike)
        except (CheckpointError, ConfigError) as error:
            raise type(error)(str(error), subject=f"rebasin.{name}") from error
    return found


def with_orders(recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint]) -> MergeRecipe:
    """The recipe with the orders of the neurons that were found for its models, where it has such.

    Raises:
        CheckpointError: an order is not the one that it had.
    """
    if not recipe.rebasin:
        return recipe
    aligned = {name: model for name in recipe.rebasin if isinstance(model := checkpoints[name], AlignedModel)}
    return replace(recipe, rebasin={**recipe.rebasin, **{name: model.said() for name, model in aligned.items()}})


def open_model(name: str, path: str, base: Checkpoint | None = None) -> Checkpoint:
    """The checkpoint given as ``model_{name}``.

    Args:
        name: of the model.
        path: of its file.
        base: model A, which a LoRA is applied to, and whose names other models take.

    Raises:
        CheckpointError: it cannot be used; its subject is the setting, ``model_{name}`` or ``vae``.
        ConfigError: it is a name, and no or several models have it; the same subject.
    """
    try:
        found = open_checkpoint(user_path(path))
        if base is None:
            return found
        return LoraModel(base, found) if found.kind is LORA else aligned(found, base)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(str(error), subject="vae" if name == "vae" else f"model_{name}") from error


def references(checkpoints: Mapping[str, Checkpoint], hashed: bool) -> dict[str, ModelRef]:
    """The files of opened models, as recipes keep them: links by their own name; download caches call files by hash."""
    return {
        name: ModelRef(os.path.abspath(model.path), model.sha256() if hashed else "")  # noqa: PTH100  Path's follows links
        for name, model in checkpoints.items()
    }


def steps_recipe(file: StepFile, checkpoints: Mapping[str, Checkpoint], *, dtype: str, hashed: bool) -> MergeRecipe:
    """The recipe of a file in several steps, without its numbers.

    Args:
        file: the recipe.
        checkpoints: its models, opened.
        dtype: of the result, where the recipe does not say it.
        hashed: whether it holds the hashes of its files.

    Raises:
        CheckpointError: the model that it starts from is not a whole model.
    """
    settings = replace(file.settings, dtype=file.settings.dtype or dtype)
    return MergeRecipe(
        **vars(settings),
        models=references(checkpoints, hashed),
        weights={},
        architecture=checkpoints[file.base].architecture.name,
        steps=file.steps,
    )
