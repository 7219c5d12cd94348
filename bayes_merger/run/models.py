"""The models of a run: which files its config names, opened and checked, and the recipe in several steps."""

from __future__ import annotations

from collections.abc import Mapping

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.config import RunConfig
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging.pipelines.architectures import drawn
from bayes_merger.merging.method import MODEL_NAMES, MethodSpec
from bayes_merger.merging.models.opening import open_each, open_model
from bayes_merger.merging.models.vae import VaeFile
from bayes_merger.merging.rebasin.settings import Alike
from bayes_merger.merging.recipe.settings import MergeSettings, read_settings
from bayes_merger.merging.recipe.step_file import StepFile, read_steps


def merge_settings(config: RunConfig) -> MergeSettings:
    """The settings of a run's merges, its VAE as it was given.

    Raises:
        ConfigError: one has the wrong form.
    """
    return read_settings(vars(config))


def read_recipe(config: RunConfig) -> StepFile | None:
    """The recipe in several steps that a run searches, if it does.

    Raises:
        ConfigError: it is malformed, or there are settings beside it that belong into it.
    """
    if not config.recipe:
        return None
    for name in merge_settings(config).changed():
        if name not in ("dtype", "clip") and (name != "vae" or _is_no_file(config.vae)):
            raise ConfigError(f"{name}: a run of a recipe takes it from the recipe; write it there")
    try:
        return read_steps(config.recipe)
    except ConfigError as error:
        raise ConfigError(str(error), subject="recipe") from None


def open_steps(file: StepFile, config: RunConfig) -> dict[str, Checkpoint]:
    """The models of a recipe in several steps; LoRAs as they are.

    Raises:
        CheckpointError: a file that cannot be used.
    """
    opened = open_each(file.models, alone=True, rebasin=orders_in(config, file.settings.rebasin))
    _check_drawn(file.base, {name: model for name, model in opened.items() if model.kind is not LORA} or opened)
    return opened | _vae_of(config, opened[file.base])


def orders_in(config: RunConfig, rebasin: Mapping[str, Alike]) -> dict[str, Alike]:
    """The models whose neurons are put in another's order; of unusual size they are like what draws."""
    folder = {"config": config.generator.config} if config.generator.config else {}
    return {name: {**folder, **alike} for name, alike in rebasin.items()}


def _is_no_file(vae: str) -> bool:
    """Whether a VAE is that of a model, or merged."""
    return vae in (*MODEL_NAMES, "merge")


def _vae_of(config: RunConfig, base: Checkpoint) -> dict[str, Checkpoint]:
    """The file whose VAE is taken, if it is not one of the models'.

    Raises:
        CheckpointError: it cannot be used.
    """
    if _is_no_file(config.vae):
        return {}
    opened = open_model("vae", config.vae)
    try:
        return {"vae": VaeFile(opened, base)}
    except CheckpointError as error:
        raise CheckpointError(str(error), subject="vae") from error


def open_models(config: RunConfig, spec: MethodSpec) -> dict[str, Checkpoint]:
    """The checkpoints that the method takes.

    Raises:
        ConfigError: the method needs a model that is not given, or the other way round.
        CheckpointError: a file that cannot be used.
    """
    opened = open_each(given_models(config, spec), rebasin=orders_in(config, merge_settings(config).rebasin))
    _check_drawn("a", opened)
    return opened | _vae_of(config, opened["a"])


def given_models(config: RunConfig, spec: MethodSpec) -> dict[str, str]:
    """The models that are given, by name: all that the method needs, and no others.

    Raises:
        ConfigError: the method needs a model that is not given, or the other way round.
    """
    named = {"a": config.model_a, "b": config.model_b, "c": config.model_c}
    given = {name: path for name, path in (named | _further(config)).items() if path}
    for name in spec.models:
        if name not in spec.optional and name not in given:
            raise ConfigError(f"model_{name}: method '{config.method}' needs it; give  model_{name}=FILE")
    spec.check_further(given)
    return given


def _further(config: RunConfig) -> dict[str, str]:
    """The models beyond the first three, by name.

    Raises:
        ConfigError: a name that no further model can have, or a value that is not a path.
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
    try:
        drawn(opened[base] if base in opened else next(iter(opened.values())))
    except CheckpointError as error:
        raise CheckpointError(str(error), subject=f"model_{base}") from error
