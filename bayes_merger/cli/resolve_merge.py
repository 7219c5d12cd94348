"""Which merge the arguments of ``merge`` and ``plan`` mean: a study's, a recipe's, or one given by hand."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bayes_merger.checkpoints.architectures import divided
from bayes_merger.checkpoints.blocks import Architecture, weights_from_string
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import INDEX
from bayes_merger.checkpoints.opening import hash_all, open_checkpoint
from bayes_merger.cli.from_settings import adjustments, number_of, recipe_by_hand, take_vae
from bayes_merger.cli.show import load
from bayes_merger.errors import CheckpointError, ConfigError, nearest
from bayes_merger.merging.models.vae import VAE_FILE
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.step_file import FreeNumbers, StepFile, free_numbers, read_steps
from bayes_merger.run.folder import find_study
from bayes_merger.run.models import open_each, steps_recipe
from bayes_merger.run.record import recipe_of, trial_of
from bayes_merger.search.space.names import names_of

_SETTING = re.compile(r"[A-Za-z_][\w.\-]*=")
_YAML = (".yaml", ".yml")
_FINISH = ("vae", "clip", "ema", "adjust")
EMBEDDED = "bayes_merger.recipe"
"""The field of a merged file's metadata that its recipe is in."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which merge is meant."""
    parser.add_argument("source", nargs="+", metavar="NAME | RECIPE | key=value", help="what to merge")
    parser.add_argument("--trial", type=int, help="a trial of the study instead of its best")
    parser.add_argument("--dtype", help="dtype of the file: auto, fp16, bf16, fp32, fp8_e4m3fn or fp8_e5m2")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")


def recipe_and_models(options: argparse.Namespace, *, verify: bool = True) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    """The merge that the arguments of ``add_source`` mean, and its opened models.

    Args:
        options: the parsed arguments.
        verify: whether a file must be the one that a recipe was made with (a second per gigabyte).

    Raises:
        ConfigError: arguments that make no sense.
        CheckpointError: a model file that cannot be used or is not the one the recipe means.
    """
    pairs = [word for word in options.source if _SETTING.match(word)]
    names = [word for word in options.source if word not in pairs]
    given = dict(pair.split("=", 1) for pair in pairs)
    if "recipe" in given:
        names.append(given.pop("recipe"))
    if len(names) > 1:
        raise ConfigError(f"merge takes one study or recipe, not {len(names)}: {', '.join(names)}")
    dtype = options.dtype or given.pop("dtype", None)
    if not names:
        if options.trial is not None:
            raise ConfigError("--trial: needs the study it belongs to, like  bayes-merger merge NAME --trial 17")
        return recipe_by_hand(given, dtype)
    if names[0].endswith(_YAML):
        return _recipe_in_steps(Path(names[0]).expanduser(), given, dtype)
    recipe = named_recipe(names[0], Path(options.runs), options.trial)
    known = [f"model_{name}" for name in recipe.models]
    for key in given:
        if key not in known:
            raise ConfigError(f"{key}: a recipe's own settings stay; only {', '.join(known)} (moved files) can change")
    if dtype:
        recipe = replace(recipe, dtype=dtype)
    return recipe, _open_recipe_models(recipe, given, Path(names[0]), verify)


def named_recipe(name: str, runs: Path, trial: int | None = None) -> MergeRecipe:
    """The recipe in a file or a merged model, or that of a study's trial (its best by default).

    Raises:
        ConfigError: there is none.
        CheckpointError: a merged model that cannot be read.
    """
    if is_model(name):
        return embedded_recipe(Path(name).expanduser())
    if name.endswith(".json"):
        return _read_recipe(Path(name).expanduser())
    study = load(find_study(runs, name))
    return recipe_of(study, trial_of(study, trial))


def is_model(name: str) -> bool:
    """Whether a merged model is meant, a file or a diffusers folder."""
    return name.endswith(".safetensors") or (Path(name).expanduser() / INDEX).is_file()


def embedded_recipe(path: Path) -> MergeRecipe:
    """The recipe that a merged file or diffusers folder carries.

    Raises:
        ConfigError: there is none, or not of this program.
        CheckpointError: the file cannot be read.
    """
    with open_checkpoint(path) as checkpoint:
        text = checkpoint.metadata.get(EMBEDDED)
        foreign = "sd_merge_recipe" in checkpoint.metadata
    if text is None:
        other = "only that of another program, see  bayes-merger recipe FILE" if foreign else "it may be no merge"
        raise ConfigError(f"{path}: there is no recipe of this program in it; {other}")
    return _parsed(text, f"the recipe in {path}:")


def _read_recipe(path: Path) -> MergeRecipe:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"recipe {path}: {_reason(error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"recipe {path}: is not a merge recipe (not text)") from None
    return _parsed(text, f"recipe {path}:")


def _parsed(text: str, what: str) -> MergeRecipe:
    try:
        return MergeRecipe.from_json(json.loads(text))
    except ConfigError as error:
        raise ConfigError(f"{what} {str(error).removeprefix('recipe: ')}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{what} is not a merge recipe ({error})") from error


def _reason(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _open_recipe_models(
    recipe: MergeRecipe, given: Mapping[str, str], source: Path, verify: bool
) -> dict[str, Checkpoint]:
    paths = {
        name: given.get(f"model_{name}") or beside(model.path, source.parent) for name, model in recipe.models.items()
    }
    try:
        checkpoints = open_each(paths, alone=bool(recipe.steps))
    except CheckpointError as error:
        moved = next((name for name in paths if str(error).startswith((f"model_{name}:", f"{name}:"))), "a")
        hint = f"; if it has moved, give it with  model_{moved}=FILE" if f"model_{moved}" not in given else ""
        raise CheckpointError(f"{error}{hint}") from error
    if verify:
        hash_all(checkpoints[name] for name, model in recipe.models.items() if model.sha256)
    for name, model in recipe.models.items():
        checkpoint = checkpoints[name]
        if verify and model.sha256 and checkpoint.sha256() != model.sha256:
            raise CheckpointError(
                f"model_{name}: {checkpoint.path} is not the recipe's file (SHA-256 {checkpoint.sha256()[:10]}, not "
                f"{model.sha256[:10]}); give the right one with  model_{name}=FILE  or add --force"
            )
    return checkpoints


def beside(path: str, folder: Path) -> str:
    """A path as it is, or in the folder of the file that names it: recipes tell names of files, not folders."""
    there = folder / path
    return str(there) if not Path(path).expanduser().exists() and there.exists() else path


def read_yaml(path: Path, what: str) -> Any:
    """What is in a YAML file.

    Raises:
        ConfigError: it cannot be read; the text begins with ``what``.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} {path}: {_reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{what} {path}: is not valid YAML ({' '.join(str(error).split())[:100]})") from None


def recipe_data(path: Path) -> Any:
    """A recipe in several steps as data; paths in it that are not of the working folder are taken to lie beside it.

    Raises:
        ConfigError: it cannot be read or is malformed.
    """
    data = read_yaml(path, "recipe")
    try:
        read_steps(data)
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from None
    return data | {"models": {name: beside(model, path.parent) for name, model in data["models"].items()}}


def _recipe_in_steps(
    path: Path, given: Mapping[str, str], dtype: str | None
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    file = read_steps(recipe_data(path))
    models = {name: given.get(f"model_{name}", model) for name, model in file.models.items()}
    checkpoints = open_each(models, alone=True)
    vae = take_vae(given["vae"], checkpoints) if "vae" in given else ""
    if vae not in ("", VAE_FILE):
        raise ConfigError(f"vae: '{vae}': a recipe in steps says whose VAE it takes; only a file may be given here")
    recipe = steps_recipe(file, checkpoints, dtype="auto", hashed=False)
    if dtype:
        recipe = replace(recipe, dtype=dtype)
    recipe = replace(recipe, clip=given.get("clip", recipe.clip), ema=given.get("ema", "drop"), vae=vae or recipe.vae)
    base = checkpoints[recipe.base]
    architecture = divided(base.architecture, file.blocks, base.shapes)
    try:
        numbers = free_numbers(file, architecture)
        texts = {k: text for k, text in given.items() if k.removeprefix("model_") not in models and k not in _FINISH}
        weights = numbers.weights(_values(texts, file, numbers, architecture))
        return recipe.with_weights(weights | adjustments(given.get("adjust"))), checkpoints
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from None


def _values(
    given: Mapping[str, str], file: StepFile, numbers: FreeNumbers, architecture: Architecture
) -> dict[str, float]:
    """Numbers for the names and weights of a recipe, the finer setting last."""
    places = (*architecture.blocks, *architecture.slots)
    weights = tuple(file.weights)
    values: dict[str, float] = {}
    for key, text in sorted(given.items(), key=lambda pair: "." in pair[0]):
        if key in numbers.names:
            values[key] = number_of(key, text)
        elif key in weights:
            try:
                values |= {f"{block}.{key}": x for block, x in weights_from_string(text, architecture).items()}
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from None
        else:
            try:
                values |= dict.fromkeys(names_of(key, places, weights), number_of(key, text))
            except ConfigError:
                if "." in key:
                    raise
                known = (*numbers.names, *weights, *(f"model_{name}" for name in file.models))
                raise ConfigError(f"'{key}' is unknown; {nearest(key, known)}") from None
    return values
