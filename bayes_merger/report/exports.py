"""A study's merge, or its trials, in the forms that other programs take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
import yaml

from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.formats import comfyui_node, mecha_recipe
from bayes_merger.report.sheet import as_csv
from bayes_merger.report.summary import trials_data, weights_text
from bayes_merger.run.folder import RunFolder

MERGES: Mapping[str, tuple[str, Callable[[MergeRecipe, str], str]]] = {
    "recipe": ("the recipe as JSON", lambda recipe, name: json.dumps(recipe.to_json(), indent=2) + "\n"),
    "yaml": (
        "the recipe as YAML",
        lambda recipe, name: yaml.safe_dump(recipe.to_json(), sort_keys=False, allow_unicode=True),
    ),
    "weights": ("the weights as strings to paste", lambda recipe, name: weights_text(recipe, name)),
    "comfyui": (
        "the inputs of ComfyUI's block-merge node",
        lambda recipe, name: json.dumps(comfyui_node(recipe), indent=2) + "\n",
    ),
    "mecha": ("an sd-mecha recipe (.mecha)", lambda recipe, name: mecha_recipe(recipe)),
}
"""Form of a merge -> what it is, and how it is written."""

STUDIES: Mapping[str, tuple[str, Callable[[optuna.study.Study, RunFolder], str]]] = {
    "csv": ("all trials with their weights as CSV", lambda study, folder: as_csv(trials_data(study))),
    "optuna": ("how Optuna opens the study", lambda study, folder: _optuna(folder)),
}
"""Form of a study -> what it is, and how it is written."""


def _optuna(folder: RunFolder) -> str:
    """The study's name and address, and the dashboard's command; a password is never part of it."""
    from bayes_merger.search.study.storage import is_address, redacted

    where = folder.where
    address = redacted(where) if is_address(where) else f"sqlite:///{Path(where).absolute()}"
    return (
        f"study    {folder.called}\nstorage  {address}\n"
        f"python   optuna.load_study(study_name={folder.called!r}, storage={address!r})\n"
        f"look     optuna-dashboard {address}\n"
    )
