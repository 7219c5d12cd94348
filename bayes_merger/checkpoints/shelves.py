"""Models by name: where the folders of web UIs have them.

A1111 and Forge keep them in ``models/Stable-diffusion``, ``models/Lora`` and ``models/VAE``, ComfyUI in
``models/checkpoints``, ``models/loras`` and so on, InvokeAI in a folder for each model in ``models``. So a name is
looked for at any depth of the folder ``models`` of what is given, or of the given folder where it has none; and where
ComfyUI's ``extra_model_paths.yaml`` says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from bayes_merger.checkpoints.single_file import SUFFIXES
from bayes_merger.documents import read_document
from bayes_merger.errors import ConfigError, and_more, close_to
from bayes_merger.paths import user_path

VARIABLE = "BAYES_MERGER_MODELS"
"""Folders of models, separated as those of ``PATH``."""

_ELSEWHERE = "extra_model_paths.yaml"
_KINDS = ("checkpoints", "diffusion_models", "unet", "loras", "vae")
_HASH = re.compile(r"(?<=.) \[[0-9a-f]{8,64}\]\Z")


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
            found += [folder / "models" if (folder / "models").is_dir() else folder, *_elsewhere(folder / _ELSEWHERE)]
    return found


def _elsewhere(path: Path) -> Iterator[Path]:
    """The folders that a file of ComfyUI's names: tables of a ``base_path`` and what is in it, a folder a line."""
    if not path.is_file():
        return
    try:
        tables = read_document(path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    for table in tables.values() if isinstance(tables, dict) else ():
        if isinstance(table, dict):
            base = path.parent / user_path(str(table.get("base_path") or "."))
            lines = [line.strip() for kind in _KINDS for line in str(table.get(kind) or "").splitlines()]
            yield from (folder for line in lines if line and (folder := base / user_path(line)).is_dir())


def models_on(folders: Sequence[Path]) -> list[Path]:
    """The model files at any depth, sorted, behind links to folders too; each folder is visited once."""
    visited: set[str] = set()
    files: set[Path] = set()
    for folder in folders:
        for place, inside, names in os.walk(folder, followlinks=True):
            real = os.path.realpath(place)
            if real in visited:
                inside.clear()
                continue
            visited.add(real)
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            files |= {Path(place) / name for name in names if name.lower().endswith(SUFFIXES)}
    return sorted(file for file in files if file.is_file())


def find_model(name: str, folders: Sequence[Path]) -> str:
    """The path of the model with this name: a file's, with or without its suffix, perhaps behind its folder's, or
    before the first letters of its hash in brackets, as A1111 has it.

    Returns:
        The name itself where a file or folder is there by this path, or nothing has this name.

    Raises:
        ConfigError: several have it; or none, but some have one so like it that it is misspelt.
    """
    path = user_path(name)
    if not folders or not path.parts or ".." in path.parts or path.is_absolute() or _is_there(path):
        return name
    models = models_on(folders)
    for written in dict.fromkeys((name, _HASH.sub("", name))):
        for folded in (_composed, lambda text: _composed(text).lower()):  # as it is written, else in any case
            found = list(_called(Path(written).parts, models, folded))
            if len(found) > 1:
                several = and_more([str(path) for path in found])
                raise ConfigError(
                    f"'{name}': several models are called so: {several}; write the folder too, or its path"
                )
            if found:
                return str(found[0])
    stem = path.stem if path.suffix.lower() in SUFFIXES else name
    if len(path.parts) == 1 and (close := close_to(stem, sorted({model.stem for model in models}))):
        raise ConfigError(f"'{name}': no model is called so; did you mean {' or '.join(close)}?")
    return name


def _called(wanted: Sequence[str], models: Sequence[Path], folded: Callable[[str], str]) -> Iterator[Path]:
    """The models whose path ends so."""
    folders, last = [_composed(folder) for folder in wanted[:-1]], folded(wanted[-1])
    for path in models:
        above = [_composed(folder) for folder in path.parts[-len(wanted) : -1]]
        if above == folders and last in (folded(path.name), folded(path.stem)):
            yield path


def _composed(text: str) -> str:
    """Letters with marks as one character, as keyboards write them; macOS writes two."""
    return normalize("NFC", text)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or no name at all
        return False
