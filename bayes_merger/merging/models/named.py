"""The settings of a merge that name models, with paths in the place of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayes_merger.checkpoints.shelves import find_model, shelves
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.merging.rebasin.written import FILE

_SETTINGS = tuple(f"model_{name}" for name in MODEL_NAMES)
_MODELS = ("models", "recipe.models")  # settings that are tables of files
_NO_FILES = (*MODEL_NAMES, "merge")  # what vae= may say beside a file


def with_paths(given: Mapping[str, Any], models_dir: str | None) -> dict[str, Any]:
    """Settings in which ``model_a`` to ``model_z``, those of ``models`` and of a recipe's, and ``vae`` are paths; what
    has no file stays.

    Args:
        given: setting to value; others are left alone.
        models_dir: where models are looked for, see :func:`bayes_merger.checkpoints.shelves.shelves`.

    Raises:
        ConfigError: several models have a name, or only similar ones, or there is no such folder.
    """
    folders = shelves(models_dir)

    def found(key: str, value: Any) -> Any:
        if key in _MODELS and isinstance(value, Mapping):
            return {name: found(f"{key}.{name}", path) for name, path in value.items()}
        if key == "recipe" and isinstance(value, Mapping):
            return {name: found(f"recipe.{name}", part) for name, part in value.items()}
        is_model = key.rpartition(".")[0] in _MODELS or key in _SETTINGS
        if is_model and isinstance(value, Mapping) and FILE in value:
            return {**value, FILE: found(key, value[FILE])}
        if not isinstance(value, str) or not (is_model or (key == "vae" and value not in _NO_FILES)):
            return value
        try:
            return find_model(value, folders)
        except ConfigError as error:
            raise ConfigError(str(error), subject=key) from None

    return {key: found(key, value) for key, value in given.items()}
