"""``anchors=[...]`` of a run: merges that a person believes in, tried before the search begins.

An anchor is a preset of supermerger's (``GRAD_V``), a weight string (26 numbers, or one for all), a recipe
(``recipe.json``, or a merged ``.safetensors``), or an earlier study: its best merge (``STUDY``) or one trial's
(``STUDY:17``); or ``saliency``: each block from the model that answers more to its prompts there. For a method of
several weights, ``{alpha: GRAD_V, beta: 0.5}``; without names, the first is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.activations.levels import ANSWERS, levels
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.models.lora import is_lora
from bayes_merger.merging.recipe.presets import is_preset, presets, read_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.saliency.settings import FILES, MOVED, STRENGTH
from bayes_merger.paths import user_path
from bayes_merger.run.folder import studies
from bayes_merger.run.models import merge_settings
from bayes_merger.run.setup import RunSetup
from bayes_merger.search.space.design import design

_NUMBERS = re.compile(r"[-+\d.eE,\s]*\d[-+\d.eE,\s]*")
_TRIAL = re.compile(r"(.+):(\d+)")

SALIENCY = "saliency"
"""The anchor that the run's files of activations make."""

_STEEPNESS = 8
"""How fast a block goes over to the model that answers more there; without any search, on models of the demo's size."""

Weights = dict[str, dict[str, float]]


def start_design(setup: RunSetup) -> tuple[list[dict[str, float]], list[str]]:
    """The rows of a run's start design, and a line about each anchor that could not be kept as it was.

    Raises:
        ConfigError: an anchor that means nothing, or more of them than ``init_points`` holds.
    """
    config = setup.config
    defaults = {name: weight.default for name, weight in setup.method.weights.items()}
    rows, lines = [], []
    for entry in config.anchors:
        weights, changes = read_anchor(entry, setup)
        values, gave_way = setup.space.project(weights, defaults)
        rows.append(values)
        if changes + gave_way:
            lines.append(f"anchor {_short(entry)}: {'; '.join(changes + gave_way)}")
    return design(setup.space, config.init_points, config.seed, anchors=rows, kind=config.design), lines


def read_anchor(entry: Any, setup: RunSetup) -> tuple[Weights, list[str]]:
    """The weights that one entry of ``anchors`` means, and what there is to say about them.

    Raises:
        ConfigError: it means nothing.
    """
    names, blocks = tuple(setup.method.weights), setup.architecture
    if isinstance(entry, Mapping):
        for name in entry:
            if name not in names:
                raise ConfigError(
                    f"anchors: method '{setup.method.name}' has no weight '{name}'; {nearest(name, names)}"
                )
        return {name: _numbers(value, setup) for name, value in entry.items()}, []
    text = str(entry).strip()
    if _is_numbers(entry) or is_preset(text):
        return {names[0]: _numbers(entry, setup)}, []
    if text == SALIENCY:
        return _by_saliency(setup), []
    recipe = _recipe(text, setup.config)
    if recipe.architecture != blocks.name:
        raise ConfigError(f"anchors: {text} is a merge of {recipe.architecture}, these models are {blocks.name}")
    weights = {name: dict(row) for name, row in recipe.weights.items() if name in names}
    if not weights:
        raise ConfigError(f"anchors: {text} has weights {', '.join(recipe.weights)}, none of {', '.join(names)}")
    return weights, [] if recipe.method == setup.method.name else [f"its weights are those of method '{recipe.method}'"]


def _by_saliency(setup: RunSetup) -> Weights:
    """The share of B in what both models answer in each block, sharpened; half where nothing was measured.

    alpha = R_b^8 / (R_a^8 + R_b^8),   R the geometric mean of the responses' RMS over all channels and weights.
    """
    if setup.steps:
        raise ConfigError(f"anchors: {SALIENCY} is for runs of model A and B, not for a recipe in steps; leave it out")
    files = merge_settings(setup.config).saliency
    if missing := [name for name in FILES if name not in files]:
        raise ConfigError(f"anchors: {SALIENCY} compares both models; give  {SALIENCY}.{missing[0]}=FILE, too")
    found = {}
    for name in FILES:
        with closing(Sidecar(user_path(files[name]["path"]))) as file:
            cells = levels(file, setup.architecture, lambda _: "", ANSWERS)
        found[name] = {block: level for (block, _), level in cells.items()}
    a, b = (found[name] for name in FILES)
    known = [block for block in setup.architecture.blocks if block in a and block in b]
    if not known:
        raise ConfigError(f"anchors: {SALIENCY} needs responses; measure with cfg_scale above 1, or with --gradients")
    numbers = dict.fromkeys(setup.architecture.blocks, 0.5)
    odds = {block: 2 ** min(_STEEPNESS * (a[block] - b[block]), 1000) for block in known}  # of A; more overflow
    numbers |= {block: 1 / (1 + odds[block]) for block in known}
    strength = setup.method.weights.get(STRENGTH)
    return {MOVED: numbers} | ({STRENGTH: dict.fromkeys(numbers, strength.default)} if strength else {})


def _numbers(value: Any, setup: RunSetup) -> dict[str, float]:
    """A number per block, from a weight string, one number, or a preset's name."""
    if not _is_numbers(value) and not isinstance(value, str):
        raise ConfigError(f"anchors: {value!r} is neither numbers nor the name of a preset")
    try:
        of_lora = any(map(is_lora, setup.checkpoints.values()))
        return read_weights(str(value), setup.architecture, of_lora=of_lora)
    except ConfigError as error:
        raise ConfigError(f"anchors: {error}") from None


def _is_numbers(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if not isinstance(value, str):
        return isinstance(value, int | float)
    return bool(_NUMBERS.fullmatch(value.strip())) and bool(re.match(r"\W*\d", value))  # `e1` is a study's name


def _recipe(text: str, config: RunConfig) -> MergeRecipe:
    from bayes_merger.run.recipes import named_recipe

    runs = Path(config.runs)
    if text.endswith((".json", ".safetensors")):
        return named_recipe(text, runs)
    found = _TRIAL.fullmatch(text)
    name, trial = (found[1], int(found[2])) if found else (text, None)
    known = [folder.name for folder in studies(runs)]
    if name not in known:
        raise ConfigError(
            f"anchors: '{name}' is not a weight string, preset, recipe file or study in {runs}; "
            f"{nearest(name, [*known, *presets(), SALIENCY])}"
        )
    return named_recipe(name, runs, trial)


def _short(entry: Any) -> str:
    text = str(entry)
    return text if len(text) <= 40 else f"{text[:37]}..."
