"""Merges from Python: as a recipe, as a state dict, as a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.api.words import words
from bayes_merger.merging.recipe.recipe import MergeRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.checkpoints.checkpoint import Checkpoint

Source = str | Path | MergeRecipe
"""A study or a recipe's file by name, or a recipe."""


def merge(*source: Source, trial: int | None = None, runs: str | Path = "runs", **settings: Any) -> dict[str, Tensor]:
    """The merged model as a state dict: single-file key to tensor, on the CPU.

    For example::

        merge(model_a="A.safetensors", model_b="B.safetensors", alpha=0.3, **{"OUT03-OUT05.alpha": 0.6})
        merge("A-B")                    # the best merge of a study
        merge("A-B", trial=17)
        merge("recipe.json")

    Args:
        source: a recipe, or the name of a study or of a recipe's file; none: the settings are the merge.
        trial: of the study, instead of its best.
        runs: the folder of all studies.
        settings: those of ``bayes-merger merge``; a list of numbers is a weight string.

    Raises:
        ConfigError: settings that make no sense, or no such study.
        CheckpointError: a model file that cannot be used.
    """
    from bayes_merger.merging.engine.merge import merge as merged
    from bayes_merger.run.rebasin import find_orders

    with _opened(*source, trial=trial, runs=runs, **settings) as (meant, models):
        find_orders(models.values())
        return dict(merged(meant, models))  # tensors that are mapped from a file stay valid


def save_merge(
    out: str | Path,
    *source: Source,
    trial: int | None = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Write the merged model as a safetensors file that other programs load, its recipe inside.

    For example::

        save_merge("mix.safetensors", model_a="A.safetensors", model_b="B.safetensors", alpha=0.3)

    Args:
        out: the file to write.
        source: as for :func:`merge`.
        trial: as for :func:`merge`.
        runs: as for :func:`merge`.
        overwrite: whether a file that is already there may be replaced; a model of the merge never is.
        settings: as for :func:`merge`.

    Returns:
        The file.

    Raises:
        ConfigError: as :func:`merge`.
        CheckpointError: as :func:`merge`; or the file cannot be written.
    """
    from bayes_merger.merging.export.single_file import save_merge as save
    from bayes_merger.run.rebasin import find_orders

    with _opened(*source, trial=trial, runs=runs, **settings) as (meant, models):
        find_orders(models.values())
        save(meant, models, out, replace=overwrite)
    return Path(out)


def recipe(*source: Source, trial: int | None = None, runs: str | Path = "runs", **settings: Any) -> MergeRecipe:
    """The merge as data, which :func:`merge` and :func:`save_merge` take; nothing is merged.

    ``recipe(...).with_weights(weights)`` is the same merge with other numbers.

    Args:
        source: as for :func:`merge`.
        trial: as for :func:`merge`.
        runs: as for :func:`merge`.
        settings: as for :func:`merge`.

    Raises:
        ConfigError: as :func:`merge`.
        CheckpointError: as :func:`merge`.
    """
    with _opened(*source, trial=trial, runs=runs, **settings) as (meant, _):
        return meant


@contextmanager
def _opened(
    *source: Source, trial: int | None, runs: str | Path, **settings: Any
) -> Iterator[tuple[MergeRecipe, dict[str, Checkpoint]]]:
    """The merge that is meant, and its opened models."""
    from bayes_merger.merges.resolve import recipe_and_models, with_models
    from bayes_merger.merging.models.named import with_paths

    if source and isinstance(source[0], MergeRecipe):
        moved = dict(word.split("=", 1) for word in words(settings) if not word.endswith("=null"))
        models_dir = moved.pop("models_dir", None)
        meant, models = with_models(source[0], with_paths(moved, models_dir), models_dir=models_dir)
    else:
        given = [*map(str, source), *words(settings)]
        meant, models = recipe_and_models(given, trial=trial, runs=runs)
    try:
        yield meant, models
    finally:
        for model in models.values():
            model.close()
