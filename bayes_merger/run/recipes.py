"""Recipes by name: in a file, inside a merged model, or of a study's trial."""

from __future__ import annotations

import json
from pathlib import Path

from bayes_merger.checkpoints.naming import INDEX
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.documents import read_text
from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.paths import user_path
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.folder import find_study, load
from bayes_merger.run.idle import space_of
from bayes_merger.run.predicted import predicted_recipe
from bayes_merger.run.record import begun_trial, recipe_of
from bayes_merger.search.space.from_effect import about_effect

EMBEDDED = "bayes_merger.recipe"
"""The field of a merged file's metadata that its recipe is in."""


def named_recipe(name: str, runs: Path, trial: int | None = None, *, predicted: bool = False) -> MergeRecipe:
    """The recipe in a file or a merged model, or that of a study's trial (its best by default).

    Args:
        name: of a study or a file.
        runs: the folder of all studies.
        trial: of the study.
        predicted: instead, the merge that the study's scores predict to be the best.

    Raises:
        ConfigError: it does not exist.
        CheckpointError: a merged model that cannot be read.
    """
    if is_model(name):
        return embedded_recipe(user_path(name))
    if name.endswith(".json"):
        return _read_recipe(user_path(name))
    study = load(find_study(runs, name))
    return predicted_recipe(study) if predicted else recipe_of(study, begun_trial(study, trial))


def about_space(name: str, runs: Path) -> str:
    """What is said of the weights that the study of this name leaves alone; empty for files.

    Raises:
        ConfigError: it does not exist.
    """
    if is_model(name) or name.endswith((".json", ".yaml", ".yml")):
        return ""
    study = load(find_study(runs, name), whole=False)
    config = study.user_attrs.get(CONFIG) or {}
    return about_effect(config.get("space"), space_of(study).blocks)


def is_model(name: str) -> bool:
    """Whether a merged model is meant, a file or a diffusers folder."""
    return name.lower().endswith((".safetensors", ".sft")) or (user_path(name) / INDEX).is_file()


def embedded_recipe(path: Path) -> MergeRecipe:
    """The recipe that a merged file or diffusers folder carries.

    Raises:
        ConfigError: it does not exist, or not of this program.
        CheckpointError: the file cannot be read.
    """
    with open_checkpoint(path) as checkpoint:
        text = checkpoint.metadata.get(EMBEDDED)
        foreign = "sd_merge_recipe" in checkpoint.metadata
    if text is None:
        other = "only another program's, see  bayes-merger recipe FILE" if foreign else "it may be no merge"
        raise ConfigError(f"{path}: it holds no recipe written by this program; {other}")
    return _parsed(text, f"the recipe in {path}:")


def _read_recipe(path: Path) -> MergeRecipe:
    try:
        text = read_text(path)
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from None
    return _parsed(text, f"recipe {path}:")


def _parsed(text: str, what: str) -> MergeRecipe:
    try:
        return MergeRecipe.from_json(json.loads(text))
    except ConfigError as error:
        raise ConfigError(f"{what} {error.reason}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{what} is not a merge recipe ({error})") from error
