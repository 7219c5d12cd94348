"""What a file of activations consists of: the names of its statistics, and what it says about itself.

A *measured* file has several tensors for each of a model's matrices and convolutions, `KEY|statistic`, where KEY is the
weight's own name in the checkpoint. A *plain* one, which any program can write, has one tensor for each, called KEY: a
saliency that broadcasts to the weight. docs/activations.md describes both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bayes_merger.errors import CheckpointError, printable

SUFFIX = ".act.safetensors"
"""How files of activations are called, where they are told from models by their names."""

MARK = "|"
"""Between the name of a weight and that of a statistic."""

COUNT_OF: Mapping[str, str] = {
    "in_sq": "n",
    "in_abs": "n",
    "guided_in": "guided_n",
    "guided_out": "guided_n",
    "gradient_in": "gradient_n",
    "gradient_out": "gradient_n",
}
"""Statistic -> the count of places that its mean was taken over."""

BY_RUN = "by_run"
"""Of each run: the mean square of the input and of the response, as `(runs, 2)`; for people to look at."""

_ALIKE = ("prompts", "seeds", "size", "steps", "sampler", "cfg_scale", "clip_skip", "dtype")

METADATA = "bayes_merger.activations"
VERSION = 1
_MOST_BANDS, _MOST_RUNS = 1000, 100_000


@dataclass(frozen=True)
class About:
    """What a measured file says about itself.

    Attributes:
        model: the SHA-256 of the model's file.
        architecture: its name.
        bands: into how many bands of timesteps the statistics are divided, the least noise first.
        runs: what was drawn: one table for each payload, with an `id` that names all that decides the statistics.
    """

    model: str
    architecture: str
    bands: int
    runs: tuple[Mapping[str, Any], ...]

    def to_metadata(self) -> dict[str, str]:
        """As the header of a file holds it."""
        table = asdict(self) | {"version": VERSION, "runs": [dict(run) for run in self.runs]}
        return {METADATA: json.dumps(table, sort_keys=True)}


def read_about(metadata: Mapping[str, str]) -> About | None:
    """What a file says about itself; `None` of a plain one.

    Raises:
        CheckpointError: it is malformed, or newer than this program; the text does not name the file.
    """
    if METADATA not in metadata:
        return None
    try:
        table = json.loads(metadata[METADATA])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata '{METADATA}' is not JSON; measure it again") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"its metadata '{METADATA}' is not a table; measure it again")
    if table.get("version") != VERSION:
        found = printable(str(table.get("version")))
        raise CheckpointError(f"version {found} of activations is not read, only {VERSION}; measure it again")
    for name, kind in (("model", str), ("architecture", str), ("bands", int), ("runs", list)):
        if type(table.get(name)) is not kind:
            raise CheckpointError(f"its metadata has no valid '{name}'; measure it again")
    runs = table["runs"]
    if not 1 <= table["bands"] <= _MOST_BANDS:
        raise CheckpointError(f"it claims {printable(str(table['bands']))} bands; 1 to {_MOST_BANDS} are read")
    if len(runs) > _MOST_RUNS or not all(isinstance(run, dict) and isinstance(run.get("id"), str) for run in runs):
        raise CheckpointError("its metadata has runs without an id; measure it again")
    if len({run["id"] for run in runs}) < len(runs):
        raise CheckpointError("its metadata has a run twice; measure it again")
    if not all(map(_is_shallow, runs)):
        raise CheckpointError("its metadata has tables within tables; measure it again")
    return About(table["model"], table["architecture"], table["bands"], tuple(runs))


def _is_shallow(value: Any, depth: int = 4) -> bool:
    """Whether whoever walks through it comes to an end soon."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not inside or (depth > 0 and all(_is_shallow(part, depth - 1) for part in inside))


def measured_alike(one: About, other: About) -> bool:
    """Whether two models drew the same, so that what they did can be compared."""
    drawn = [sorted(repr([run.get(name) for name in _ALIKE]) for run in about.runs) for about in (one, other)]
    return one.bands == other.bands and drawn[0] == drawn[1]
