"""Merges in several steps as people write them down.

::

    models: {a: A.safetensors, b: B.safetensors, c: C.safetensors, style: style_lora.safetensors}
    steps:
      - {name: mix,    method: weighted_sum,   a: a,   b: b, alpha: 0.4}
      - {name: detail, method: add_difference, a: mix, b: b, c: c, alpha: {default: 1, OUT03-OUT05: 0.3, TE: look}}
      - {name: final,  method: weighted_sum,   a: detail, b: style, alpha: search}

A step takes models and earlier steps by name (``a``, ``b``, ``c``, and ``d``, ``e``, ... where its method takes any
number of them), and its method's weights and options. A weight is one number for all blocks, or one for each (a list,
or a text with commas), or a table of blocks and ranges of blocks. Any number may be replaced by a name: one number
wherever the name occurs, searched in a run and set by hand in a merge. The word ``search`` means a separate searched
number for every block. Weights that are not named keep the method's defaults. Besides ``models`` and ``steps`` a recipe
may have ``dtype``, ``compat``, ``blocks``, ``channels``, ``clip``, ``ema`` and ``rebasin``; a model may be a table, as
in ``b: {rebasin: B.safetensors, to: a}``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.blocks import Architecture, weights_from_string
from bayes_merger.documents import read_document
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.method import MODEL_NAMES, MethodSpec
from bayes_merger.merging.parameters import WeightRange
from bayes_merger.merging.rebasin.written import steps_with_files
from bayes_merger.merging.recipe.elements import named_ratios, parse_rules
from bayes_merger.merging.recipe.recipe import RecipeStep, base_of
from bayes_merger.merging.recipe.settings import OF_A_STEP, SETTINGS, MergeSettings, read_settings
from bayes_merger.merging.saliency.settings import ACT, STRENGTH, WINNER, no_strength
from bayes_merger.paths import user_path

SEARCH = "search"
"""The word for a number that is searched for each block separately."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_OF_A_STEP = ("name", *(name for name in OF_A_STEP if name != "options"))
_SETTINGS = tuple(name for name in SETTINGS if name not in OF_A_STEP)


@dataclass(frozen=True)
class StepFile:
    """A merge in several steps, some of whose numbers may still be free.

    Attributes:
        models: name to path as it was written.
        steps: the steps, in order.
        given: step -> weight -> what was written for it.
        settings: of the whole merge; the method is the last step's.
    """

    models: Mapping[str, str]
    steps: tuple[RecipeStep, ...]
    given: Mapping[str, Mapping[str, Any]]
    settings: MergeSettings

    @property
    def base(self) -> str:
        """The name of the model that the first step starts from."""
        return base_of(self.steps)

    @property
    def weights(self) -> dict[str, WeightRange]:
        """The weights of all steps, by their full names."""
        return {step.weight(name): about for step in self.steps for name, about in step.spec.weights.items()}


@dataclass(frozen=True)
class FreeNumbers:
    """The numbers of a recipe: the fixed ones, and those that are still to be chosen.

    Attributes:
        fixed: ``BLOCK.weight`` to number.
        names: name to every ``BLOCK.weight`` (for the ratio of a rule, ``NAME.weight``) that it stands for.
        searched: every ``BLOCK.weight`` that is searched separately.
    """

    fixed: Mapping[str, float]
    names: Mapping[str, tuple[str, ...]]
    searched: tuple[str, ...]

    def weights(self, values: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Weight -> block -> number.

        Args:
            values: a number for every name, and for every ``BLOCK.weight`` in ``searched``; others override.

        Raises:
            ConfigError: one is missing.
        """
        numbers = dict(self.fixed)
        for name, drives in self.names.items():
            unset = [driven for driven in drives if driven not in values]
            if unset and name not in values:
                raise ConfigError(f"{name}: the recipe leaves this number open; give it one like  {name}=0.5")
            numbers |= dict.fromkeys(unset, values[name])
        for place in self.searched:
            if place not in values:
                block, _, weight = place.partition(".")
                raise ConfigError(f"{weight}: the recipe leaves {block}'s to a search; give numbers like  {weight}=0.5")
        numbers |= {place: number for place, number in values.items() if "." in place}
        weights: dict[str, dict[str, float]] = {}
        for place, number in numbers.items():
            block, _, weight = place.partition(".")
            weights.setdefault(weight, {})[block] = number
        return weights


def read_steps(data: Any) -> StepFile:
    """A recipe from plain data, as YAML gives it.

    Raises:
        ConfigError: it is malformed; the text names the step.
    """
    if not isinstance(data, Mapping) or "steps" not in data or "models" not in data:
        raise ConfigError("a table with  models:  and  steps:  is wanted")
    for key in data:
        if key not in ("models", "steps", *_SETTINGS):
            raise ConfigError(f"'{key}' is unknown; {nearest(str(key), ('models', 'steps', *_SETTINGS))}")
    data = steps_with_files(data)
    models = _read_models(data["models"])
    if not isinstance(data["steps"], Sequence) or isinstance(data["steps"], str) or not data["steps"]:
        raise ConfigError("steps is not a list of steps, like  - {name: mix, method: weighted_sum, a: ..., alpha: 0.5}")
    steps: list[RecipeStep] = []
    given: dict[str, Mapping[str, Any]] = {}
    for number, step in enumerate(data["steps"], start=1):
        name = step.get("name", f"step{number}") if isinstance(step, Mapping) else f"step{number}"
        try:
            parsed, weights = _read_step(step, name, {*models, *(known.name for known in steps)})
        except ConfigError as error:
            raise ConfigError(f"step {name}: {error}") from None
        steps.append(parsed)
        given[parsed.name] = weights
    _check_all_used(models, steps)
    settings = read_settings({key: data.get(key) for key in _SETTINGS} | {"method": steps[-1].method})
    return StepFile(models, tuple(steps), given, settings)


def _read_models(data: Any) -> dict[str, str]:
    if not isinstance(data, Mapping) or not data:
        raise ConfigError("models is not a table of names and files, like  models: {a: A.safetensors}")
    for name, path in data.items():
        _check_name(name, "a model")
        if not isinstance(path, str) or not path:
            raise ConfigError(f"model {name}: {path!r} is not the name of a file")
    return dict(data)


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of {what}; use letters, digits and _")


def _read_step(data: Any, name: str, known: set[str]) -> tuple[RecipeStep, dict[str, Any]]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{data!r} is not a table, like  {{name: mix, method: weighted_sum, a: a, b: b, alpha: 0.5}}")
    _check_name(name, "a step")
    if name in known:
        raise ConfigError(f"'{name}' is taken; give every model and step a name of its own")
    own = read_settings({key: data.get(key) for key in OF_A_STEP if key != "options"})
    spec = own.spec
    spec.check_further([key for key in data if data[key] is not None], prefix="")
    for key in data:
        allowed = (
            "name",
            *(key for key in OF_A_STEP if key != "options"),
            *spec.known_models(data),
            *spec.weights,
            *spec.options,
        )
        if key not in allowed and key == STRENGTH:
            raise ConfigError(no_strength(own.saliency.get("takes")))
        if key not in allowed:
            raise ConfigError(f"'{key}' is unknown to {spec.name}; {nearest(str(key), allowed)}")
        if key in spec.weights and str(data[key]).startswith(ACT):
            raise ConfigError(f"{key}: in a step it is  act: {{{key}: {str(data[key]).removeprefix(ACT)}}}")
        if key == STRENGTH and data[key] == WINNER:
            raise ConfigError(f"{key}: in a step it is  saliency: {{b: FILE, takes: {WINNER}}}")
    models = _read_roles(data, spec, known)
    options = {key: spec.options[key].read(key, data[key]) for key in spec.options if key in data}
    step = RecipeStep(name, spec.name, models, options, own.elements, own.vae, own.saliency, own.act)
    return step, {key: data[key] for key in spec.weights if key in data}


def _read_roles(data: Mapping[str, Any], spec: MethodSpec, known: set[str]) -> dict[str, str]:
    models = {}
    for role in spec.known_models(data):
        if data.get(role) is None:
            if role in spec.models and role not in spec.optional:
                raise ConfigError(f"{spec.name} needs {role}; give a model or an earlier step, like  {role}: NAME")
            continue
        if not isinstance(data[role], str) or data[role] not in known:
            raise ConfigError(
                f"{role}: '{data[role]}' is neither a model nor an earlier step; {nearest(str(data[role]), known)}"
            )
        models[role] = str(data[role])
    return models


def _check_all_used(models: Mapping[str, str], steps: Sequence[RecipeStep]) -> None:
    used = {name for step in steps for name in step.models.values()}
    for step in steps[:-1]:
        if step.name not in used:
            raise ConfigError(f"step {step.name}: no later step takes it; name it in one, or leave it out")
    for name in models:
        if name not in used:
            raise ConfigError(f"model {name}: no step takes it; name it in one, or leave it out")


def free_numbers(file: StepFile, architecture: Architecture, loras: Collection[str] = ()) -> FreeNumbers:
    """The numbers of a recipe on an architecture.

    Args:
        file: the recipe.
        architecture: of its models.
        loras: its models that are LoRAs; weight strings of steps that take one may be LoRA block weights.

    Raises:
        ConfigError: a number, name or block that makes no sense; the text names the step.
    """
    fixed: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    searched: list[str] = []
    for step in file.steps:
        spec = step.spec
        of_lora = any(model in loras for model in step.models.values())
        try:
            for weight, about in spec.weights.items():
                written = file.given[step.name].get(weight, about.default)
                for block, number in _by_block(weight, written, about.default, architecture, of_lora).items():
                    place = f"{block}.{step.weight(weight)}"
                    if isinstance(number, float):
                        fixed[place] = number
                    elif number == SEARCH:
                        searched.append(place)
                    else:
                        _check_free(number, architecture, file)
                        names.setdefault(number, []).append(place)
            for name, driven in named_ratios(parse_rules(step.elements, architecture, tuple(spec.weights))).items():
                _check_free(name, architecture, file)
                names.setdefault(name, []).extend(f"{name}.{step.weight(weight)}" for weight in driven)
        except ConfigError as error:
            raise ConfigError(f"step {step.name}: {error}") from None
    return FreeNumbers(fixed, {name: tuple(places) for name, places in names.items()}, tuple(searched))


def _check_free(name: str, architecture: Architecture, file: StepFile) -> None:
    if name.upper() in (*architecture.blocks, *architecture.slots) or name in file.weights:
        raise ConfigError(f"'{name}' is the name of a block or weight; choose another for a number")


def _by_block(
    weight: str, written: Any, default: float, architecture: Architecture, of_lora: bool
) -> dict[str, float | str]:
    """Block -> number or name, from any form in which a weight may be written."""
    try:
        if isinstance(written, Mapping):
            return _from_table(written, default, architecture)
        if isinstance(written, list):
            parts = [_number(part) for part in written]
            if len(parts) != len(architecture.blocks):
                raise ConfigError(f"{len(parts)} numbers; {architecture.name} has {len(architecture.blocks)} blocks")
            return dict(zip(architecture.blocks, parts, strict=True))
        if isinstance(written, str) and re.search(r"[,\s]", written.strip()):
            return dict(weights_from_string(written, architecture, of_lora=of_lora))
        return dict.fromkeys(architecture.blocks, _number(written))
    except ConfigError as error:
        raise ConfigError(f"{weight}: {error}") from None


def _from_table(written: Mapping[Any, Any], default: float, architecture: Architecture) -> dict[str, float | str]:
    numbers: dict[str, float | str] = dict.fromkeys(architecture.blocks, _number(written.get("default", default)))
    for key, value in written.items():
        if key == "default":
            continue
        first, dash, last = str(key).partition("-")
        ends = [architecture.block(end) for end in ((first, last) if dash else (first,))]
        if dash and not set(ends) <= set(architecture.blocks):
            raise ConfigError(f"{key}: these stand in no row; name them alone")
        order = [architecture.blocks.index(end) for end in ends] if dash else []
        span = architecture.blocks[min(order) : max(order) + 1] if dash else ends
        numbers |= dict.fromkeys(span, _number(value))
    return numbers


def _number(value: Any) -> float | str:
    """A number, or the name of one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            if _NAME.fullmatch(value):
                return value
    raise ConfigError(f"{value!r} is neither a number nor a name")


def beside(path: str, folder: Path) -> str:
    """The path itself or, if only that exists, the same path relative to the folder of the recipe that names it."""
    there = folder / path
    return str(there) if not user_path(path).exists() and there.exists() else path


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: it cannot be read; the text begins with ``what``.
    """
    try:
        return read_document(path, names_of=("name", "method", *MODEL_NAMES))
    except ConfigError as error:
        raise ConfigError(f"{what} {path}: {error}") from None


def recipe_data(path: Path) -> Any:
    """A recipe in several steps as data; paths that do not exist in the working folder are relative to the recipe's.

    Raises:
        ConfigError: it cannot be read or is malformed.
    """
    data = read_yaml(path, "recipe")
    try:
        read_steps(data)
        data = steps_with_files(data)
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from None
    return data | {"models": {name: beside(model, path.parent) for name, model in data["models"].items()}}
