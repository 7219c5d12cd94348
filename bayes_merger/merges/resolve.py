"""Which merge the arguments of ``merge`` and ``plan`` mean: a study's, a recipe's, or one given by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.architectures import divided
from bayes_merger.checkpoints.blocks import Architecture, weights_from_string
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import hash_all
from bayes_merger.errors import CheckpointError, ConfigError, Missing, nearest
from bayes_merger.merges.from_settings import adjustments, number_of, recipe_by_hand, split_rebasin, take_vae
from bayes_merger.merging.models.lora import is_lora
from bayes_merger.merging.models.named import with_paths
from bayes_merger.merging.models.opening import closed_on_error, open_each, steps_recipe
from bayes_merger.merging.rebasin.settings import read_rebasin
from bayes_merger.merging.rebasin.written import files_and_orders, tables_in
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import OF_A_STEP, SETTINGS, VAE_FILE, read_settings
from bayes_merger.merging.recipe.step_file import FreeNumbers, StepFile, beside, free_numbers, read_steps, recipe_data
from bayes_merger.merging.saliency.settings import Reference
from bayes_merger.paths import user_path
from bayes_merger.run.recipes import named_recipe
from bayes_merger.search.space.names import names_of

_SETTING = re.compile(r"[A-Za-z_][\w.\-]*=")
_YAML = (".yaml", ".yml")
_OF_THE_WHOLE = tuple(name for name in SETTINGS if name not in (*OF_A_STEP, "dtype", "blocks"))
_NO_NUMBERS = (*_OF_THE_WHOLE, "vae", ADJUST)


def recipe_and_models(
    source: Sequence[str],
    *,
    trial: int | None = None,
    predicted: bool = False,
    dtype: str | None = None,
    runs: str | Path = "runs",
    verify: bool = True,
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    """The merge that these words mean, and its opened models.

    Args:
        source: the name of a study or of a recipe's file, or settings like ``model_a=A.safetensors`` and ``alpha=0.3``.
        trial: of the study, instead of its best.
        predicted: instead, the merge that the study's scores predict to be the best.
        dtype: of the result, instead of the recipe's.
        runs: the folder of all studies.
        verify: whether a file must be the one that a recipe was made with (a second per gigabyte).

    Raises:
        ConfigError: words that make no sense.
        CheckpointError: a model file that cannot be used or is not the one the recipe means.
    """
    pairs = [word for word in source if _SETTING.match(word)]
    names = [word for word in source if word not in pairs]
    given = {key: text for key, _, text in (pair.partition("=") for pair in pairs) if text != "null"}  # as in a run
    models_dir = given.pop("models_dir", None)
    given = with_paths(tables_in(given), models_dir)
    if "recipe" in given:
        names.append(given.pop("recipe"))
    if len(names) > 1:
        raise ConfigError(f"merge takes one study or recipe, not {len(names)}: {', '.join(names)}")
    dtype = dtype or given.pop("dtype", None)
    if not names:
        if trial is not None or predicted:
            option = "--predicted" if predicted else "--trial 17"
            raise ConfigError(
                f"{option.split()[0]}: needs the study it belongs to, like  bayes-merger merge NAME {option}"
            )
        return recipe_by_hand(given, dtype)
    if names[0].endswith(_YAML):
        return _recipe_in_steps(user_path(names[0]), given, dtype, models_dir)
    recipe = named_recipe(names[0], Path(runs), trial, predicted=predicted)
    if dtype:
        recipe = replace(recipe, dtype=dtype)
    return with_models(recipe, given, Path(names[0]).parent, models_dir=models_dir, verify=verify)


def with_models(
    recipe: MergeRecipe,
    given: Mapping[str, Any],
    folder: Path = Path(),
    *,
    models_dir: str | None = None,
    verify: bool = True,
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    """A finished recipe and its opened models.

    Args:
        recipe: the merge.
        given: setting to text, for files that have moved.
        folder: where the recipe lies, and maybe its files.
        models_dir: where its files are found by name, if not there.
        verify: whether a file must be the one that the recipe was made with.

    Raises:
        ConfigError: a setting that is no file of the recipe.
        CheckpointError: a model file that cannot be used or is not the one the recipe means.
    """
    known = [*(f"model_{name}" for name in recipe.models), *(name for name, _ in recipe.activation_files)]
    for key in given:
        if key not in known:
            raise ConfigError(f"{key}: a recipe's own settings stay; only {', '.join(known)} (moved files) can change")
    models = {name: given[f"model_{name}"] for name in recipe.models if f"model_{name}" in given}
    files, orders = files_and_orders(models, recipe.rebasin)
    if orders != recipe.rebasin:
        raise ConfigError("rebasin: a recipe's own settings stay; give a moved file alone, like  model_b=FILE")
    given = {**given, **{f"model_{name}": file for name, file in files.items()}}

    def placed(name: str, file: Reference) -> Reference:
        path = given.get(name) or beside(file["path"], folder)
        if name not in given and not user_path(path).exists():
            raise Missing(f"{path}: there is no such file; if it has moved, give it with  {name}=FILE", subject=name)
        return {"path": path, "sha256": file["sha256"] if verify else ""}

    recipe = recipe.with_files(placed)
    paths = {name: given.get(f"model_{name}") or beside(model.path, folder) for name, model in recipe.models.items()}
    return recipe, _open_recipe_models(recipe, given, with_paths({"models": paths}, models_dir)["models"], verify)


def _open_recipe_models(
    recipe: MergeRecipe, given: Mapping[str, str], paths: Mapping[str, str], verify: bool
) -> dict[str, Checkpoint]:
    try:
        rebasin = {name: alike if verify else {**alike, "sha256": ""} for name, alike in recipe.rebasin.items()}
        checkpoints = open_each(paths, alone=bool(recipe.steps), rebasin=rebasin)
    except CheckpointError as error:
        moved = error.subject.removeprefix("model_") or "a"
        hint = f"; if it has moved, give it with  model_{moved}=FILE" if f"model_{moved}" not in given else ""
        raise CheckpointError(f"{error}{hint}") from error
    with closed_on_error(checkpoints):
        if verify:
            _check_hashes(recipe, checkpoints)
    return checkpoints


def _check_hashes(recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Refuse files that are not those the recipe was made with."""
    hash_all(checkpoints[name] for name, model in recipe.models.items() if model.sha256)
    for name, model in recipe.models.items():
        checkpoint = checkpoints[name]
        if model.sha256 and checkpoint.sha256() != model.sha256:
            raise CheckpointError(
                f"model_{name}: {checkpoint.path} is not the recipe's file (SHA-256 {checkpoint.sha256()[:10]}, not "
                f"{model.sha256[:10]}); give the right one with  model_{name}=FILE  or add --force"
            )


def _recipe_in_steps(
    path: Path, given: Mapping[str, Any], dtype: str | None, models_dir: str | None
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    file = read_steps(with_paths({"recipe": recipe_data(path)}, models_dir)["recipe"])
    numbers, typed = split_rebasin(given)
    written = {name: numbers.pop(f"model_{name}") for name in file.models if f"model_{name}" in numbers}
    files, orders = files_and_orders(written, typed)
    rebasin = {**file.settings.rebasin, **read_rebasin("rebasin", orders)}
    file = replace(file, models={**file.models, **files}, settings=replace(file.settings, rebasin=rebasin))
    checkpoints = open_each(file.models, alone=True, rebasin=rebasin)
    with closed_on_error(checkpoints):
        recipe = _with_numbers(path, file, checkpoints, numbers, dtype)
    return recipe, checkpoints


def _with_numbers(
    path: Path, file: StepFile, checkpoints: dict[str, Checkpoint], given: Mapping[str, str], dtype: str | None
) -> MergeRecipe:
    """The recipe in steps with the numbers and settings that were given; a VAE's file is added to the models."""
    vae = take_vae(given["vae"], checkpoints) if "vae" in given else ""
    if vae not in ("", VAE_FILE):
        raise ConfigError(f"vae: '{vae}': a recipe in steps says whose VAE it takes; only a file may be given here")
    recipe = steps_recipe(file, checkpoints, dtype="auto", hashed=False)
    settings = read_settings({name: given[name] for name in _OF_THE_WHOLE if name in given})
    chosen = {name: getattr(settings, name) for name in _OF_THE_WHOLE if name in given}
    recipe = replace(recipe, **chosen, dtype=dtype or recipe.dtype, vae=vae or recipe.vae)
    base = checkpoints[recipe.base]
    architecture = divided(base.architecture, recipe.blocks, base.shapes)
    try:
        loras = [name for name, checkpoint in checkpoints.items() if is_lora(checkpoint)]
        numbers = free_numbers(file, architecture, loras)
        texts = {k: text for k, text in given.items() if k not in _NO_NUMBERS}
        weights = numbers.weights(_values(texts, file, numbers, architecture))
        return recipe.with_weights(weights | adjustments(given.get("adjust")))
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
