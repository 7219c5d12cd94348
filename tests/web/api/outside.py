"""A study that was begun with ``generator=outside``, of the two small models."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_merger import demo
from bayes_merger.cli import main
from bayes_merger.run.folder import RunFolder

MODELS = [f"model_{name}={demo.MODELS / f'{name}.safetensors'}" for name in ("a", "b")]


def begun(runs: Path, name: str = "mine", *settings: str) -> RunFolder:
    """Three merges of a start design and one more."""
    command = ["run", *MODELS, "generator=outside", "init_points=3", "n_iters=1", *settings]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*command, f"name={name}", f"runs={runs}"]) in (None, 0)
    return RunFolder(runs / name)


def copied(folder: RunFolder, runs: Path, name: str = "mine") -> RunFolder:
    """The same in another place: to begin one takes seconds."""
    shutil.copytree(folder.path, runs / name)
    return RunFolder(runs / name)


def taste(weights: Mapping[str, Any]) -> float:
    return float(5.0 - sum((number - 0.3) ** 2 for number in weights["alpha"].values()))
