"""A model written with the order that it takes: ``model_b: {rebasin: FILE, to: a, by: weights}``.

It is the same as ``model_b: FILE`` beside ``rebasin: {b: {to: a, by: weights}}``, and is read into that. On a command
line it is ``"model_b={rebasin: FILE, to: a}"``, or ``model_b.rebasin=FILE model_b.to=a``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bayes_merger.documents import parse_document
from bayes_merger.errors import ConfigError
from bayes_merger.merging.rebasin.settings import as_orders, as_table

FILE = "rebasin"
"""What the file is called in such a table."""

_MODEL = re.compile(r"(?:recipe\.)?(?:models\.|model_)[A-Za-z]\w*", re.ASCII)


def tables_in(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are typed, with those of models that are tables as tables.

    Raises:
        ConfigError: a table that cannot be read.
    """
    found: dict[str, Any] = {}
    for key, value in typed.items():
        setting, _, part = key.rpartition(".")
        if is_model(setting):
            found[setting] = _as_model(found.get(setting)) | {part: value}
        elif is_model(key):
            given = table_of(key, value)
            found[key] = {**found[key], **_as_model(given)} if key in found else given
        else:
            found[key] = value
    return found


def is_model(setting: str) -> bool:
    """Whether a setting is a model: ``model_b``, ``models.d``, ``recipe.models.style``."""
    return bool(_MODEL.fullmatch(setting))


def _as_model(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {FILE: value} if value else {}


def table_of(key: str, value: Any) -> Any:
    """The table that a setting is typed as, if it is one; else the value. A model's has texts only.

    Raises:
        ConfigError: a table that cannot be read.
    """
    if not isinstance(value, str) or not value.startswith("{") or not value.rstrip().endswith("}"):
        return value
    try:
        table = parse_document(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}; a name with , or : in it needs quotes") from None
    for part, given in table.items() if is_model(key) else ():
        if not isinstance(given, str):
            raise ConfigError(f"{key}: {part}: {given!r} is no text; a name that looks like none needs quotes")
    return table


def files_and_orders(
    models: Mapping[str, Any], rebasin: Any, setting: str = "model_{}"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What models are written as, apart: their files, and the setting `rebasin` with what their tables say.

    Args:
        models: name to a file, or to a table that has it.
        rebasin: the setting beside them, in any form that `read_rebasin` takes.
        setting: what a model's setting is called, with ``{}`` for its name.

    Raises:
        ConfigError: a table without a file, or one that contradicts ``rebasin``.
    """
    files, orders = dict(models), as_orders(FILE, rebasin)
    for name, model in models.items():
        if not isinstance(model, Mapping):
            continue
        key = setting.format(name)
        files[name], table = model.get(FILE), {part: given for part, given in model.items() if part != FILE}
        if not isinstance(files[name], str) or not files[name]:
            raise ConfigError(f"{key}: {dict(model)} names no file; give  {key}={{rebasin: FILE, to: a}}")
        beside = as_table(f"rebasin.{name}", orders.get(name, {}))
        for part in table.keys() & beside.keys():
            if table[part] != beside[part]:
                raise ConfigError(
                    f"{key}: says {part}: {table[part]}, and rebasin.{name} says {part}: {beside[part]}; leave one out"
                )
        orders[name] = {**beside, **table}
    return files, orders


def steps_with_files(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in several steps in which models are files; what tables say of them besides is in its ``rebasin``.

    Raises:
        ConfigError: a table without a file, or one that contradicts ``rebasin``.
    """
    models = recipe.get("models")
    if not isinstance(models, Mapping) or not any(isinstance(model, Mapping) for model in models.values()):
        return dict(recipe)
    files, orders = files_and_orders(models, recipe.get("rebasin") or {}, "model {}")
    return {**recipe, "models": files, "rebasin": orders}
