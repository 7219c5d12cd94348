"""Every optimiser that ``conf/optimiser`` offers, as its file makes it; a new file is tested without being named."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.samplers import BaseSampler

FOLDER = Path(__file__).parents[2] / "conf" / "optimiser"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
BLIND = ("lhs", "random", "sobol")
LEARNING = [name for name in NAMES if name not in BLIND]
SEVERAL = ["botorch", "gp", "lhs", "random", "sobol", "tpe"]
"""Those that know several objectives."""

EXTRA = {"botorch": "botorch"}
"""Optimisers that need a package which is not always there."""

QUICK: dict[str, dict[str, Any]] = {
    "lhs": {"rows": 5},
    "tpe": {"n_startup_trials": 3},
    "gp": {"n_startup_trials": 3},
    "cma": {"population": 4},
    "turbo": {"candidates": 50},
    "botorch": {"restarts": 1, "raw_samples": 16, "draws": 16},
}
"""Options under which a study of a dozen trials reaches every part of a method."""


def settings(name: str) -> dict[str, Any]:
    """What the optimiser's file says; settings that refer to others are left to the function's defaults."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return {key: value for key, value in content.items() if "${" not in str(value)}


def factory(name: str) -> Callable[..., BaseSampler]:
    """The function behind the file."""
    module, _, function = settings(name)["_target_"].rpartition(".")
    made: Callable[..., BaseSampler] = getattr(importlib.import_module(module), function)
    return made


def sampler_of(name: str, space: Any, seed: int, **options: Any) -> BaseSampler:
    """The optimiser with the options of its file, unless others are given; skips the test if a package is lacking."""
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])
    own = {key: value for key, value in settings(name).items() if not key.startswith("_")}
    return partial(factory(name), **own | options)(space, seed)


def sampler_by_keyword(name: str, /, *, space: Any, seed: int) -> BaseSampler:
    """The optimiser as a run makes it, with options under which a dozen trials reach every part of it."""
    return sampler_of(name, space, seed, **QUICK.get(name, {}))
