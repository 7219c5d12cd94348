"""``best/``: what the user takes home from a study, made from the study alone.

So it can be made again at any time and after any crash.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import optuna

from bayes_merger.atomic import write_atomically, write_json
from bayes_merger.errors import trouble
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.contact_sheet import Picture, sheet
from bayes_merger.report.contents import points_of, side_by_side
from bayes_merger.report.figures import write_plot
from bayes_merger.report.plots import convergence_figure, front_figure, unet_figure
from bayes_merger.report.summary import summary, weights_text
from bayes_merger.report.thumbnails import write_image
from bayes_merger.run.attributes import IMAGES
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import space_of
from bayes_merger.run.progress import ProgressReporter, TrialReport
from bayes_merger.run.record import (
    chosen_trial,
    front_of,
    objectives_of,
    recipe_of,
)
from bayes_merger.search.study.checked import reads_once

COMPARED = 24
"""At most so many pictures are in ``compare.png``."""

PAUSE = 60.0
"""Seconds until ``best/`` is first written, and between two times, while the search goes on."""


@reads_once
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
    write_comparison(study, folder)
    if objectives_of(study):
        write_front(study, folder)
    return recipe


def write_comparison(study: optuna.study.Study, folder: RunFolder) -> None:
    """Write ``best/compare.png``: the same prompts and seeds by the models, their even mix and the best merge."""
    rows = side_by_side(study, folder, COMPARED)
    columns: dict[str, dict[Picture, Path]] = {}
    for number, row in enumerate(rows):
        for name, shot in row.shots.items():
            if shot.path:
                columns.setdefault(name, {})[row.payload, number] = shot.path
    if not columns:
        return
    titles = {name: f"{name}  {points:.2f}" for name, points in points_of(study).items()}
    captions = {(row.payload, number): f"{row.payload}: {row.prompt}"[:120] for number, row in enumerate(rows)}
    write_image(sheet({titles.get(name, name): own for name, own in columns.items()}, captions),
                folder.best / "compare.png")  # fmt: skip


class FreshBest:
    """A progress reporter that also keeps ``best/`` fresh: it is written after a new best, at most once a minute.

    Args:
        progress: told everything as before.
        write: writes it.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(
        self, progress: ProgressReporter, write: Callable[[], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._write, self._clock = progress, write, clock
        self._next, self._stale = clock() + PAUSE, False
        self.step, self.budget, self.note = progress.step, progress.budget, progress.note
        self.members, self.quiet = progress.members, progress.quiet

    def trial(self, report: TrialReport) -> None:
        """Pass it on; write if this trial, or one that had to wait, was a new best."""
        self._progress.trial(report)
        self._stale = self._stale or report.improved
        if self._stale and self._clock() >= self._next:
            try:
                self._write()
            except OSError as error:  # what is for the eye is no reason to end a run
                self._progress.note(f"best/ could not be written anew: {trouble(error) or error}")
            self._stale, self._next = False, self._clock() + PAUSE


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


def write_preview(trial: optuna.trial.FrozenTrial, folder: RunFolder) -> None:
    """Put a picture beside ``best.safetensors``, under the name that web UIs show it by."""
    if pictures := _pictures_of(trial, folder):
        write_atomically(folder.model.with_suffix(".preview.png"), pictures[0].read_bytes())


def _copy_pictures(trial: optuna.trial.FrozenTrial, folder: RunFolder, place: Path) -> None:
    for source in _pictures_of(trial, folder):
        shutil.copyfile(source, place / source.name)


def _pictures_of(trial: optuna.trial.FrozenTrial, folder: RunFolder) -> list[Path]:
    """The trial's pictures; where only the best ones' were kept, those that the final round has drawn once more."""
    kept = folder.pictures(trial.user_attrs.get(IMAGES, []))
    return kept or sorted(folder.images(trial.number).glob("*.png"))
