"""``export``: a study's merge, or its trials, for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
import yaml

from bayes_merger.atomic import write_atomically
from bayes_merger.cli.arguments import Parser, add_which
from bayes_merger.errors import ConfigError, StorageError, nearest, trouble
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.paths import user_path
from bayes_merger.report.formats import comfyui_node, mecha_recipe
from bayes_merger.report.sheet import as_csv
from bayes_merger.report.summary import trials_data, weights_text
from bayes_merger.run.folder import RunFolder, find_study, load
from bayes_merger.run.predicted import predicted_recipe
from bayes_merger.run.record import recipe_of, trial_of

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


def export(arguments: Sequence[str]) -> None:
    """Print a study's merge or its trials in another program's form, or write them to a file.

    Raises:
        ConfigError: no such study, trial or form, or the form cannot hold the merge.
        StorageError: the file cannot be written.
    """
    forms = {name: about for name, (about, _) in {**MERGES, **STUDIES}.items()}
    listed = "; ".join(f"{name}: {about}" for name, about in forms.items())
    parser = Parser(prog="bayes-merger export", description=f"A study's best merge for other programs. {listed}.")
    parser.add_argument("name", help="the study; - is the newest")
    parser.add_argument("form", nargs="?", default="recipe", help=f"one of {', '.join(forms)} (default: recipe)")
    add_which(parser)
    parser.add_argument("--out", help="a file; without it, it is printed")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if its folder is not here")
    options = parser.parse_args(arguments)
    if options.form not in forms:
        raise ConfigError(f"export: no form '{options.form}'; {nearest(options.form, forms)}")
    folder = find_study(Path(options.runs), options.name, options.storage)
    study = load(folder)
    if options.form in STUDIES:
        text = STUDIES[options.form][1](study, folder)
    else:
        trial = None if options.predicted else trial_of(study, options.trial)
        recipe = predicted_recipe(study) if trial is None else recipe_of(study, trial)
        text = MERGES[options.form][1](recipe, folder.name)
    if not options.out:
        print(text.rstrip("\n"))
        return
    path = user_path(options.out)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StorageError(trouble(error) or f"{path}: {error}") from error
    print(f"wrote {path}")


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
