"""The models of a run or a merge: which files, opened and checked, and the recipe in several steps that names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.architectures import OwnBlocks, own_blocks
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.config import RunConfig
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.method import MODEL_NAMES, MethodSpec
from bayes_merger.merging.models.aligned import aligned
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.models.vae import VaeFile
from bayes_merger.merging.recipe.recipe import MergeRecipe, ModelRef
from bayes_merger.merging.recipe.step_file import StepFile, read_steps

DRAWN = ("sd1",)
"""The architectures that can be drawn; the others can be merged only."""


def references(checkpoints: Mapping[str, Checkpoint], hashed: bool) -> dict[str, ModelRef]:
    """The files of opened models, as recipes keep them."""
    return {n: ModelRef(str(c.path.resolve()), c.sha256() if hashed else "") for n, c in checkpoints.items()}


def own_division(config: RunConfig) -> OwnBlocks:
    """The blocks of the user's own, if there are any.

    Raises:
        ConfigError: they are malformed.
    """
    return own_blocks(config.blocks) if config.blocks else ()


def steps_recipe(file: StepFile, checkpoints: Mapping[str, Checkpoint], *, dtype: str, hashed: bool) -> MergeRecipe:
    """The recipe of a file in several steps, without its numbers.

    Args:
        file: the recipe.
        checkpoints: its models, opened.
        dtype: of the result, where the recipe does not say it.
        hashed: whether it holds the hashes of its files.

    Raises:
        CheckpointError: the model that it starts from is none.
    """
    settings: dict[str, Any] = {"dtype": dtype, **file.settings}
    return MergeRecipe(
        method=file.steps[-1].method,
        models=references(checkpoints, hashed),
        weights={},
        architecture=checkpoints[file.base].architecture.name,
        blocks=file.blocks,
        steps=file.steps,
        **settings,
    )


def read_recipe(config: RunConfig) -> StepFile | None:
    """The recipe in several steps that a run searches, if it does.

    Raises:
        ConfigError: it is malformed, or there are settings beside it that belong into it.
    """
    if not config.recipe:
        return None
    elsewhere = {
        "method": config.method != "weighted_sum",
        "elements": config.elements,
        "options": config.options,
        "vae": config.vae != "a" and _is_no_file(config.vae),
        "compat": config.compat,
        "blocks": config.blocks,
        "channels": config.channels != "equal",
    }
    for name, value in elsewhere.items():
        if value:
            raise ConfigError(f"{name}: a run of a recipe takes it from the recipe; write it there")
    try:
        return read_steps(config.recipe)
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None


def open_steps(file: StepFile, config: RunConfig) -> dict[str, Checkpoint]:
    """The models of a recipe in several steps; LoRAs as they are.

    Raises:
        CheckpointError: a file that cannot be used.
    """
    opened = open_each(file.models, alone=True)
    _check_drawn(file.base, {name: model for name, model in opened.items() if model.kind is not LORA} or opened)
    return opened | _vae_of(config, opened[file.base])


def _is_no_file(vae: str) -> bool:
    """Whether a VAE is that of a model, or merged."""
    return vae in (*MODEL_NAMES, "merge")


def _vae_of(config: RunConfig, base: Checkpoint) -> dict[str, Checkpoint]:
    """The file whose VAE is taken, where that is none of the models'.

    Raises:
        CheckpointError: it cannot be used.
    """
    if _is_no_file(config.vae):
        return {}
    opened = open_model("vae", config.vae)
    try:
        return {"vae": VaeFile(opened, base)}
    except CheckpointError as error:
        raise CheckpointError(f"vae: {error}") from error


def open_models(config: RunConfig, spec: MethodSpec) -> dict[str, Checkpoint]:
    """The checkpoints that the method takes.

    Raises:
        ConfigError: the method needs a model that is not given, or the other way round.
        CheckpointError: a file that cannot be used.
    """
    named = {"a": config.model_a, "b": config.model_b, "c": config.model_c}
    given = {name: path for name, path in (named | _further(config)).items() if path}
    for name in spec.models:
        if name not in spec.optional and name not in given:
            raise ConfigError(f"model_{name}: method '{config.method}' needs it; give  model_{name}=FILE")
    spec.check_further(given)
    opened = open_each(given)
    _check_drawn("a", opened)
    return opened | _vae_of(config, opened["a"])


def _further(config: RunConfig) -> dict[str, str]:
    """The models beyond the first three, by name.

    Raises:
        ConfigError: a name that is none of a further model, or a path that is none.
    """
    for name, path in config.models.items():
        if name not in MODEL_NAMES[3:]:
            raise ConfigError(f"models.{name}: further models are called d, e, f, ... z; give them like  model_d=FILE")
        if path is not None and not isinstance(path, str):
            raise ConfigError(f"model_{name}: {path!r} is not the name of a file; give  model_{name}=FILE")
    return {name: path for name, path in config.models.items() if path}


def _check_drawn(base: str, opened: Mapping[str, Checkpoint]) -> None:
    names = {checkpoint.architecture.name for checkpoint in opened.values()}
    if len(names) > 1:
        kinds = ", ".join(f"model_{name} is {model.architecture.name}" for name, model in opened.items())
        raise CheckpointError(f"models of different architectures cannot be merged: {kinds}")
    architecture = opened[base].architecture if base in opened else next(iter(opened.values())).architecture
    if architecture.name not in DRAWN:
        raise CheckpointError(
            f"model_{base}: {architecture.title} can be merged but not yet drawn, so a run cannot judge it; "
            "merge it by hand with  bayes-merger merge model_a=... model_b=... --out FILE"
        )


def open_each(paths: Mapping[str, str], *, alone: bool = False) -> dict[str, Checkpoint]:
    """The models given by these paths; LoRAs among them are applied to model A.

    Args:
        paths: model name to file.
        alone: leave LoRAs as they are: the steps of a recipe say what they are applied to.

    Raises:
        CheckpointError: as ``open_model``.
    """
    opened: dict[str, Checkpoint] = {}
    for name in sorted(paths):
        opened[name] = open_model(name, paths[name], None if alone or name == "vae" else opened.get("a"))
    return opened


def open_model(name: str, path: str, base: Checkpoint | None = None) -> Checkpoint:
    """The checkpoint given as ``model_{name}``.

    Args:
        name: of the model.
        path: of its file.
        base: model A, which a LoRA is applied to, and whose names other models take.

    Raises:
        CheckpointError: it cannot be used; the text begins with the setting's name.
    """
    try:
        found = open_checkpoint(Path(path).expanduser())
        if base is None:
            return found
        return LoraModel(base, found) if found.kind is LORA else aligned(found, base)
    except CheckpointError as error:
        raise CheckpointError(f"{'vae' if name == 'vae' else f'model_{name}'}: {error}") from error
