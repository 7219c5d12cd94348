"""The settings of a merge that name models and files of activations, with paths in the place of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayes_merger.checkpoints.shelves import find_model, shelves
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.merging.rebasin.written import FILE
from bayes_merger.merging.saliency.settings import ACT, FILES

_SETTINGS = tuple(f"model_{name}" for name in MODEL_NAMES)
_MODELS = ("models", "recipe.models")  # settings that are tables of files
_NO_FILES = (*MODEL_NAMES, "merge")  # what vae= may say beside a file
_SALIENCY = ("saliency", *(f"saliency.{name}" for name in FILES))


def with_paths(given: Mapping[str, Any], models_dir: str | None) -> dict[str, Any]:
    """Settings in which ``model_a`` to ``model_z``, those of ``models`` and of a recipe's, ``vae``, and the files of
    ``saliency`` and ``act`` are paths; what has no file stays.

    Args:
        given: setting to value; others are left alone.
        models_dir: where models are looked for, see :func:`bayes_merger.checkpoints.shelves.shelves`.

    Raises:
        ConfigError: several models have a name, or only similar ones, or there is no such folder.
    """
    folders = shelves(models_dir)

    def path_of(key: str, name: str) -> str:
        try:
            return find_model(name, folders)
        except ConfigError as error:
            raise ConfigError(str(error), subject=key) from None

    def found(key: str, value: Any) -> Any:
        if key == "recipe.steps" and isinstance(value, list):
            return [each("step.", step) if isinstance(step, Mapping) else step for step in value]
        own = key.removeprefix("step.")  # its further settings are names of models and steps
        if isinstance(value, Mapping) and (key in ("recipe", *_MODELS) or own in ("saliency", "act")):
            return each(f"{own}.", value)
        is_model = key.rpartition(".")[0] in _MODELS or key in _SETTINGS
        if is_model and isinstance(value, Mapping) and FILE in value:
            return {**value, FILE: found(key, value[FILE])}
        if not isinstance(value, str):
            return value
        if value.startswith(ACT) and own.isidentifier():
            return ACT + path_of(own, value.removeprefix(ACT))
        if is_model or own in _SALIENCY or key.startswith("act.") or (key == "vae" and value not in _NO_FILES):
            return path_of(key, value)
        return value

    def each(above: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: found(f"{above}{key}", value) for key, value in values.items()}

    return each("", given)
