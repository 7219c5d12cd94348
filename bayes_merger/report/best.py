"""``best/``: what the user takes home from a study, made from the study alone.

So it can be made again at any time and after any crash.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna

from bayes_merger.atomic import write_atomically, write_json
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.figures import write_plot
from bayes_merger.report.plots import convergence_figure, front_figure, unet_figure
from bayes_merger.report.summary import summary, weights_text
from bayes_merger.run.attributes import IMAGES
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import space_of
from bayes_merger.run.record import (
    chosen_trial,
    front_of,
    objectives_of,
    recipe_of,
)


def write_best(study: optuna.study.Study, folder: RunFolder) -> MergeRecipe:
    """Write ``best/``: recipe, weight strings, pictures, plots and summary; returns the recipe."""
    trial = chosen_trial(study)
    recipe = recipe_of(study, trial)
    write_json(folder.best / "recipe.json", recipe.to_json())
    write_atomically(folder.best / "weights.txt", weights_text(recipe, folder.name))
    write_json(folder.best / "summary.json", summary(study))
    for old in folder.best.glob("*.png"):
        old.unlink()
    _copy_pictures(trial, folder, folder.best)
    write_plot(convergence_figure(study), folder.best / "convergence.png")
    write_plot(
        unet_figure(recipe, f"{folder.name}: trial {trial.number}", space_of(study).idle), folder.best / "unet.png"
    )
    if objectives_of(study):
        write_front(study, folder)
    return recipe


def write_front(study: optuna.study.Study, folder: RunFolder) -> None:
    """Write ``best/front.png``, and ``best/front/NNNN/`` with recipe, weights and pictures for each of its trials."""
    place = folder.best / "front"
    if place.is_dir():
        shutil.rmtree(place)
    for trial in front_of(study):
        own = place / f"{trial.number:04d}"
        recipe = recipe_of(study, trial)
        write_json(own / "recipe.json", recipe.to_json())
        write_atomically(own / "weights.txt", weights_text(recipe, f"{folder.name}-{trial.number}"))
        _copy_pictures(trial, folder, own)
    write_plot(front_figure(study), folder.best / "front.png")


def _copy_pictures(trial: optuna.trial.FrozenTrial, folder: RunFolder, place: Path) -> None:
    """The trial's pictures; where only the best ones' were kept, those that the final round has drawn once more."""
    kept = folder.pictures(trial.user_attrs.get(IMAGES, []))
    for source in kept or sorted(folder.images(trial.number).glob("*.png")):
        shutil.copyfile(source, place / source.name)
