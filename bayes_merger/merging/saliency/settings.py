"""How a merge names its files of activations, and the weight that they add to its method.

`saliency: {a: FILE, b: FILE}` moves alpha inside every tensor towards the model that is more salient at a place, by as
much as the weight `strength` says, or gives a place to that model altogether: `takes: winner`; `saliency: FILE` is
short for `{b: FILE}`. `act: {alpha: FILE}` multiplies a weight by a saliency, number by number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.hashes import sha256_of
from bayes_merger.errors import CheckpointError, ConfigError, nearest
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.parameters import WeightRange
from bayes_merger.paths import user_path

MOVED = "alpha"
"""The weight that saliency moves."""

STRENGTH = "strength"
"""The weight that says how far; 0 not at all."""

ACT = "act:"
"""What stands before a file in the place of a number; short for `act`."""

FILES = ("a", "b")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "by": ("response", "activation", "gradient", "plain"),
    "centre": ("key", "none"),
    "takes": ("share", "winner"),
}
"""What the saliency of a measured file is, what it is compared with, and what the more salient model gets. The first is
the default; of what it is compared with, the second where the winner takes all."""

WINNER = CHOICES["takes"][1]

_RANGE = WeightRange(1.0, 0.0, 4.0, 0.0, 16.0)

Reference = Mapping[str, str]
"""`path`, and the `sha256` that the file must have; empty where nobody has looked."""


def read_saliency(name: str, value: Any) -> dict[str, Any]:
    """The setting `saliency` from any form in which it is written.

    Raises:
        ConfigError: it has another form.
    """
    table = {"b": value} if isinstance(value, str) and value else value
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} is {value!r}; give a file, or  {name}.a=FILE {name}.b=FILE")
    table = {key: given for key, given in table.items() if given is not None}
    for key in table:
        if key not in (*FILES, *CHOICES):
            raise ConfigError(f"{name}.{key}: is unknown; {nearest(str(key), (*FILES, *CHOICES))}")
    for key, choices in CHOICES.items():
        if table.get(key, choices[0]) not in choices:
            raise ConfigError(f"{name}.{key}: {table[key]!r} is unknown; give one of {', '.join(choices)}")
    if table and not set(FILES) & table.keys():
        raise ConfigError(f"{name}: names no file; give  {name}.b=FILE")
    files = {key: _reference(f"{name}.{key}", table[key]) for key in FILES if key in table}
    return {**files, **{key: str(table[key]) for key in CHOICES if key in table}}


def read_act(name: str, value: Any) -> dict[str, Reference]:
    """The setting `act`, a file per weight.

    Raises:
        ConfigError: it has another form.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; give a file for a weight, like  {name}.alpha=FILE")
    return {str(weight): _reference(f"{name}.{weight}", file) for weight, file in value.items() if file is not None}


def _reference(name: str, value: Any) -> Reference:
    if isinstance(value, str) and value:
        return {"path": value, "sha256": ""}
    texts = isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
    if texts and value.keys() == {"path", "sha256"} and value["path"]:
        return dict(value)
    raise ConfigError(f"{name}: {value!r} is not the name of a file")


def each_file(
    settings: Mapping[str, Mapping[str, Any]], change: Callable[[str, Reference], Reference]
) -> dict[str, dict[str, Any]]:
    """The settings `saliency` and `act` with every file changed.

    Args:
        settings: both by name; other forms than those that are read here are left alone.
        change: called with what the user calls the file, `saliency.a`, and its reference.
    """
    return {
        name: {
            key: change(f"{name}.{key}", value) if isinstance(value, Mapping) else value
            for key, value in settings.get(name, {}).items()
        }
        for name in ("saliency", "act")
    }


def hashed(name: str, reference: Reference) -> Reference:
    """The file by its absolute path and its hash.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = user_path(reference["path"])
    try:
        return {"path": str(path.resolve()), "sha256": reference["sha256"] or sha256_of(path)}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})", subject=name) from error


def unfoldered(_: str, reference: Reference) -> Reference:
    """The file by its name alone, for what is passed on."""
    return {**reference, "path": Path(reference["path"]).name}


def strengthened(spec: MethodSpec, saliency: Mapping[str, Any]) -> MethodSpec:
    """The method with the weight that saliency adds, where there is one; a method that has it by itself keeps it."""
    if not saliency or STRENGTH in spec.weights or saliency.get("takes") == WINNER:
        return spec
    return replace(spec, weights={**spec.weights, STRENGTH: _RANGE})


def no_strength(takes: str | None) -> str:
    """Why a merge has no strength, and the way out.

    Args:
        takes: what the more salient model gets; None without a file of activations.
    """
    if takes == WINNER:
        return f"there is no {STRENGTH} where saliency takes the winner; leave one of the two out"
    return f"there is no {STRENGTH} without a file of activations; give  saliency.b=FILE"


def is_strength(name: str) -> bool:
    """Whether a name is that of the strength, of all blocks or of some, in any of the forms of such names."""
    return re.fullmatch(rf"(?:.*[._])?{STRENGTH}", name.strip(), re.IGNORECASE) is not None
