"""What processes that were killed have left in a study's folder, removed when the study goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from optuna.study import Study

from bayes_merger.run.attributes import IMAGES
from bayes_merger.run.folder import RunFolder
from bayes_merger.search.study.checked import stored_trials
from bayes_merger.search.study.history import is_interrupted


def sweep(folder: RunFolder, study: Study) -> list[Path]:
    """Remove half-written files, and pictures of interrupted trials that no other trial has; folder is held alone.

    Returns:
        What was removed.
    """
    removed = [*_half_written(folder), *_orphans(folder, study)]
    for path in removed:
        path.unlink(missing_ok=True)
        if path.parent != folder.path and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    return removed


def _half_written(folder: RunFolder) -> Iterator[Path]:
    """Pictures may be in the making by workers, whose trials still run; everything else is written by who holds it."""
    yield from folder.path.glob(".*.tmp")
    yield from folder.best.rglob("*.tmp")


def _orphans(folder: RunFolder, study: Study) -> Iterator[Path]:
    names = [name for trial in study.get_trials(deepcopy=False) for name in trial.user_attrs.get(IMAGES, [])]
    kept = set(folder.pictures(names))
    for trial in stored_trials(study):
        if is_interrupted(trial):
            place = folder.images(trial.number)
            yield from (path for path in (*place.glob("*.png"), *place.glob("*.tmp")) if path.resolve() not in kept)
