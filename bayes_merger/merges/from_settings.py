"""A merge that is given on the command line, number by number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.architectures import OwnBlocks, divided, own_blocks
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.documents import read_document
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.method import MODEL_NAMES, MethodSpec, method_spec
from bayes_merger.merging.models.lora import is_lora
from bayes_merger.merging.models.opening import closed_on_error, open_each, open_model, references
from bayes_merger.merging.rebasin.settings import as_orders, as_table, read_rebasin
from bayes_merger.merging.rebasin.written import files_and_orders, table_of
from bayes_merger.merging.recipe.elements import named_ratios, parse_rules
from bayes_merger.merging.recipe.postprocess import ADJUST, read_adjust
from bayes_merger.merging.recipe.presets import read_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import SETTINGS, VAE_FILE, read_settings
from bayes_merger.merging.saliency.settings import ACT, STRENGTH, WINNER, is_strength, no_strength, strengthened
from bayes_merger.paths import user_path
from bayes_merger.search.space.names import names_of

_BY_HAND = (*(name for name in SETTINGS if name not in ("options", "dtype")), ADJUST)
_TABLES = {"saliency": "b=FILE", "act": "alpha=FILE"}  # settings that are tables, with an example


Open = Callable[..., dict[str, Checkpoint]]
"""Opens models by name, as `open_each` does."""


def recipe_by_hand(
    given: Mapping[str, Any], dtype: str | None, opened: Open = open_each
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    """The merge that settings describe, and its opened models.

    Args:
        given: setting to text; or, of a setting that is no number, to what a run's configuration has for it.
        dtype: of the result.
        opened: opens the models, or knows them as they are open.

    Raises:
        ConfigError: settings that make no sense.
        CheckpointError: a model file that cannot be used.
    """
    given, tables = with_tables(given)
    method = given.get("method", "weighted_sum")
    spec = strengthened(method_spec(method), tables["saliency"])
    models = {name: given[f"model_{name}"] for name in MODEL_NAMES if given.get(f"model_{name}")}
    spec.check_further(models)
    known = [*_BY_HAND, *(f"model_{name}" for name in spec.known_models(models)), *spec.options]
    numbers = {key: text for key, text in given.items() if key not in known}
    for name in spec.models:
        if name not in spec.optional and name not in models:
            for key in difflib.get_close_matches(f"model_{name}", numbers, n=1, cutoff=0.8):
                raise _unknown_setting(key, method, known)
            raise ConfigError(f"model_{name}: method '{method}' needs it; give  model_{name}=FILE")
    options = {name: option.read(name, given[name]) for name, option in spec.options.items() if name in given}
    bound = spec.bind(models, options)
    files, tables["rebasin"] = files_and_orders(models, tables["rebasin"])
    checkpoints = opened(files, rebasin=read_rebasin("rebasin", tables["rebasin"]))
    with closed_on_error(checkpoints):
        blocks = _read_blocks(Path(given["blocks"])) if isinstance(given.get("blocks"), str) else given.get("blocks")
        settings = read_settings({**given, **tables, "dtype": dtype or "auto", "options": options, "blocks": blocks})
        settings = replace(settings, vae=take_vae(settings.vae, checkpoints))
        whole = checkpoints["a"].architecture
        architecture = divided(whole, settings.blocks, checkpoints["a"].shapes)
        ratios = named_ratios(parse_rules(settings.elements, architecture, tuple(spec.weights)))
        of_lora = any(map(is_lora, checkpoints.values()))
        if STRENGTH not in spec.weights and (about := next(filter(is_strength, numbers.keys() - ratios.keys()), "")):
            raise ConfigError(f"{about}: {no_strength(tables['saliency'].get('takes'))}")
        weights = _weights(numbers, bound, architecture, ratios, known, of_lora=of_lora)
        recipe = MergeRecipe(
            **vars(settings),
            models=references(checkpoints, hashed=False),
            weights=weights | adjustments(given.get(ADJUST)),
            architecture=architecture.name,
        )
    return recipe, checkpoints


def with_tables(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that are no tables, and those that are, as `read_settings` takes them.

    ``alpha=act:FILE`` is short for ``alpha=1 act.alpha=FILE``, ``saliency=FILE`` for ``saliency.b=FILE``, and
    ``strength=winner`` for ``saliency.takes=winner``.
    """
    given, orders = split_rebasin(given)
    tables: dict[str, dict[str, Any]] = {**{name: {} for name in _TABLES}, "rebasin": orders}
    others: dict[str, str] = {}
    for key, text in given.items():
        name, dot, part = key.partition(".")
        if not dot and key in _TABLES and isinstance(table := table_of(key, text), Mapping):
            tables[key] |= table
        elif key == "saliency":
            tables["saliency"]["b"] = text
        elif name in tables:
            if not dot:
                raise ConfigError(f"{name} is a table; give  {name}.{_TABLES[name]}")
            tables[name][part] = text
        elif isinstance(text, str) and text.startswith(ACT):
            if dot:
                raise ConfigError(f"{key}: a file is for all blocks; give  act.{part}=FILE  and  {key}=NUMBER")
            tables["act"][key] = text.removeprefix(ACT)
            others[key] = "1"
        elif key == STRENGTH and text == WINNER:
            tables["saliency"]["takes"] = WINNER
        else:
            others[key] = text
    return others, tables


def split_rebasin(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The other settings, and ``rebasin.b=a`` or ``rebasin.b.to=a`` as the table that `read_rebasin` takes.

    Raises:
        ConfigError: one is no part of a table.
    """
    others: dict[str, Any] = {}
    orders: dict[str, Any] = {}
    for key, value in given.items():
        model, inner, about = key.removeprefix("rebasin.").partition(".")
        if key == "rebasin":
            orders |= as_orders(key, table_of(key, value))
        elif key.startswith("rebasin."):
            told = {about: value} if inner else as_table(key, table_of(key, value))
            orders[model] = as_table(key, orders.get(model, {})) | told
        else:
            others[key] = value
    return others, orders


def take_vae(vae: str, checkpoints: dict[str, Checkpoint]) -> str:
    """What a recipe says of its VAE; a file of its own is opened among the models.

    Args:
        vae: a model's name, ``merge``, or the name of a file.
        checkpoints: the models, where the file is added.

    Raises:
        CheckpointError: the file cannot be used.
    """
    if vae in (*checkpoints, "merge") or not re.search(r"[./\\]", vae):
        return vae
    if "vae" not in checkpoints:
        checkpoints["vae"] = open_model("vae", vae)
    return VAE_FILE


def adjustments(text: str | None) -> dict[str, dict[str, float]]:
    """Supermerger's adjustments as a part of a recipe's weights, if there are any.

    Raises:
        ConfigError: they make no sense, or name a number instead of giving it.
    """
    if text is None:
        return {}
    numbers = read_adjust(text)
    for name, number in numbers.items():
        if isinstance(number, str):
            raise ConfigError(f"adjust: {name} is '{number}'; a merge needs a number there, names are for a run")
    return {ADJUST: {name: float(number) for name, number in numbers.items()}}


def _unknown_setting(key: str, method: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(f"unknown setting '{key}' of method '{method}'; {nearest(key, known)}")


def _weights(
    given: Mapping[str, str],
    spec: MethodSpec,
    architecture: Architecture,
    ratios: Mapping[str, Sequence[str]],
    settings: Sequence[str],
    *,
    of_lora: bool,
) -> dict[str, dict[str, float]]:
    """Block weights: the method's defaults, then a weight for all blocks, then the base's, then single blocks."""
    base = {key: text for key, text in given.items() if key.lower().startswith("base_")}
    weights = {
        name: _weight(name, given.get(name), base.get(f"base_{name}"), about.default, architecture, of_lora=of_lora)
        for name, about in spec.weights.items()
    }
    for ratio in ratios:
        if ratio not in given:
            raise ConfigError(f"{ratio}: a rule of elements= has it for its ratio; give it a number like  {ratio}=0.5")
    places = (*architecture.blocks, *architecture.slots)
    for key, text in given.items():
        if key in ratios:
            for weight in ratios[key]:
                weights[weight][key] = number_of(key, text)
            continue
        if key in spec.weights:
            continue
        try:
            names = names_of(key, places, tuple(spec.weights))
        except ConfigError as error:
            if "." in key:
                raise
            raise _unknown_setting(key, spec.name, [*settings, *spec.weights, *ratios]) from error
        for name in names:
            block, _, weight = name.rpartition(".")
            weights[weight][block] = number_of(key, text)
    return weights


def _weight(
    name: str, text: str | None, base: str | None, default: float, architecture: Architecture, *, of_lora: bool
) -> dict[str, float]:
    if text is None:
        return dict.fromkeys(architecture.blocks, default)
    count = len([part for part in re.split(r"[,\s]+", text) if part])
    first = None if base is None or count == len(architecture.blocks) else number_of(f"base_{name}", base)
    try:
        return read_weights(text, architecture, base=first, of_lora=of_lora)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def number_of(key: str, text: str) -> float:
    """The number in a text.

    Raises:
        ConfigError: it does not exist.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{key}: '{text}' is not a number") from None


def _read_blocks(path: Path) -> OwnBlocks:
    try:
        data = read_document(user_path(path))
    except ConfigError as error:
        raise ConfigError(f"blocks: {path}: {error}") from None
    return own_blocks(data)
