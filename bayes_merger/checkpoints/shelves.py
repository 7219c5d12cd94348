"""Models by name: where the folders of web UIs have them.

A1111 and Forge keep them in ``models/Stable-diffusion``, ``models/Lora`` and ``models/VAE``, ComfyUI in
``models/checkpoints``, ``models/loras`` and so on, InvokeAI in a folder for each model in ``models``. So a name is
looked for at any depth of the folder ``models`` of what is given, or of the given folder where it has none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bayes_merger.checkpoints.opening import SUFFIXES
from bayes_merger.errors import ConfigError, and_more
from bayes_merger.paths import user_path

VARIABLE = "BAYES_MERGER_MODELS"
"""Folders of models, separated as those of ``PATH``."""


def shelves(models_dir: str | None = None) -> list[Path]:
    """The folders in which models are looked for by name.

    Args:
        models_dir: a web UI's folder or one of models, several separated as in ``PATH``; None: those of the
            environment variable.

    Raises:
        ConfigError: one is no folder.
    """
    said = "models_dir" if models_dir else VARIABLE
    found = []
    for part in (models_dir or os.environ.get(VARIABLE) or "").split(os.pathsep):
        folder = user_path(part)
        if part and not folder.is_dir():
            raise ConfigError(f"{said}: {part}: there is no such folder; give that of a web UI, or one of models")
        if part:
            found.append(folder / "models" if (folder / "models").is_dir() else folder)
    return found


def models_on(folders: Sequence[Path]) -> list[Path]:
    """The model files at any depth, sorted; links to folders are not followed."""
    files = {
        Path(place) / name
        for folder in folders
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    }
    return sorted(file for file in files if file.is_file())


def find_model(name: str, folders: Sequence[Path]) -> str:
    """The path of the model with this name: a file's, with or without its suffix, perhaps behind its folder's.

    Returns:
        The name itself where a file or folder is there by this path, or nothing has this name.

    Raises:
        ConfigError: several have it.
    """
    wanted = Path(name).parts
    if not folders or not wanted or ".." in wanted or user_path(name).is_absolute() or _is_there(user_path(name)):
        return name
    models = models_on(folders)
    for folded in (str, str.lower):  # as it is written, else in any case
        last = folded(wanted[-1])
        found = [
            path
            for path in models
            if path.parts[-len(wanted) : -1] == wanted[:-1] and last in (folded(path.name), folded(path.stem))
        ]
        if len(found) > 1:
            several = and_more([str(path) for path in found])
            raise ConfigError(f"'{name}': several models are called so: {several}; write the folder too, or its path")
        if found:
            return str(found[0])
    return name


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or no name at all
        return False
