"""How a merge names the models whose neurons are put in another's order.

`rebasin: {b: a}` merges B with its neurons in the order of A's; in full, `{b: {to: a, by: weights, config: FOLDER}}`.
A model may also be written so itself, see `written`. The folder is that of a model of unusual size. A recipe has what
the folder said, `layout`, and the hash of the order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bayes_merger.errors import ConfigError, nearest

WEIGHTS, ACTIVATIONS = "weights", "activations"
BY = (WEIGHTS, ACTIVATIONS)
"""What neurons are compared by."""

_KNOWN = ("to", "by", "config", "layout", "sha256")

Alike = Mapping[str, Any]
"""How one model is put in order: the settings above by name."""


def read_rebasin(name: str, value: Any) -> dict[str, Alike]:
    """The setting `rebasin` from any form in which it is written.

    Raises:
        ConfigError: it has another form.
    """
    return {model: _read(f"{name}.{model}", given) for model, given in as_orders(name, value).items()}


def as_orders(name: str, value: Any) -> dict[str, Any]:
    """The setting `rebasin` by models, what is said of each in any form.

    Raises:
        ConfigError: it is no table.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; name a model, and the one whose order it takes, like  {name}.b=a")
    return {str(model): given for model, given in value.items() if given is not None}


def as_table(name: str, value: Any) -> dict[str, Any]:
    """What is said of one model, as a table; ``b: a`` is short for ``b: {to: a}``.

    Raises:
        ConfigError: it has another form.
    """
    table = {"to": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} is {value!r}; name the model whose order it takes, like  {name}=a")
    return {key: given for key, given in table.items() if given is not None}


def _read(name: str, value: Any) -> Alike:
    table = {"by": BY[0], "sha256": "", **as_table(name, value)}
    for key in table:
        if key not in _KNOWN:
            raise ConfigError(f"{name}.{key}: is unknown; {nearest(str(key), _KNOWN)}")
    for key in {*table} - {"layout"}:
        if not isinstance(table[key], str):
            raise ConfigError(f"{name}.{key}: {table[key]!r} is no text")
    if not table.get("to"):
        raise ConfigError(f"{name}: names no model to be like; give  {name}.to=a")
    if table["by"] not in BY:
        raise ConfigError(f"{name}.by: '{table['by']}' is unknown; give {' or '.join(BY)}")
    return table


def check_rebasin(rebasin: Mapping[str, Alike], models: Collection[str]) -> None:
    """Refuse models that are not there, and orders that would have to be found one after another.

    Args:
        rebasin: the setting.
        models: names of those of the merge.

    Raises:
        ConfigError: they are refused.
    """
    for name, alike in rebasin.items():
        others = [model for model in models if model not in (name, *rebasin, "vae")]
        if name not in models or name == "vae":
            raise ConfigError(f"rebasin.{name}: is no model of this merge; {nearest(name, models)}")
        if alike["to"] not in others:
            raise ConfigError(
                f"rebasin.{name}: '{alike['to']}' is no model that keeps its order; give one of {', '.join(others)}"
            )
