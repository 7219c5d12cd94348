"""Opens a model by its path, a file or a diffusers folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.diffusers_folder import open_folder
from bayes_merger.checkpoints.shards import INDEX, open_joined, shards_of
from bayes_merger.checkpoints.shelves import find_model, shelves
from bayes_merger.checkpoints.single_file import SUFFIXES, open_file
from bayes_merger.errors import CheckpointError, Missing, and_more


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model file or folder and validate its header.

    Args:
        path: a ``.safetensors`` file, a ``.ckpt`` that holds nothing but tensors, one of several files of a model or
            their index, or a diffusers folder; or the name of one in the folders of models that the environment names.

    Raises:
        CheckpointError: missing, unreadable, damaged, dangerous, or not a checkpoint at all.
        ConfigError: several models have the name.
    """
    path = Path(find_model(str(path), shelves()))
    try:
        if path.is_dir() and any((path / name).exists() for name in ("model_index.json", "unet", "transformer")):
            return open_folder(path)
        _check_exists(path)
        files = shards_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror}); check its name and permissions") from error
    return open_joined(path, files) if files else open_file(path)


def hash_all(checkpoints: Iterable[Checkpoint]) -> None:
    """Compute the SHA-256 of several models in parallel, one core each; their ``sha256`` is then cached."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(lambda checkpoint: checkpoint.sha256(), checkpoints))


def _check_exists(path: Path) -> None:
    if path.is_dir():
        inside = _models_in(path)
        if (path / "config.json").exists():
            raise CheckpointError(f"{path}: a part of a diffusers folder; give the folder it is in, "
                                  "or as vae= the file in it")  # fmt: skip
        if (path / "snapshots").is_dir():
            names = sorted(f"snapshots/{folder.name}" for folder in (path / "snapshots").iterdir())
            raise CheckpointError(f"{path}: a download cache; give the diffusers folder in it{_listed(names)}")
        raise CheckpointError(f"{path}: a folder, not a file; give a checkpoint in it{_listed(inside)}")
    if path.exists():
        if not path.is_file():
            raise CheckpointError(f"{path}: not a regular file; give a .safetensors file")
        if path.suffix == ".json" and not path.name.endswith(INDEX):
            raise CheckpointError(f"{path}: says something about a model and is none; give the model beside it")
        return
    if path.is_symlink():
        raise Missing(f"{path}: a link to {path.readlink()}, which is not there; give the file itself")
    if not path.parent.is_dir():
        if path.parts[0] in ("http:", "https:"):
            address = path.as_posix().replace(":/", "://", 1)
            raise CheckpointError(f"{address}: models are not downloaded; fetch it there and give the file")
        if not path.suffix and len(path.parts) == 2:
            raise CheckpointError(f"{path}: models are not downloaded; give a file or folder that is here")
        raise Missing(f"{path}: there is no folder {path.parent}; check the path")
    inside = _models_in(path.parent)
    close = difflib.get_close_matches(path.name, inside, n=3, cutoff=0.5)
    by_name = "" if path.suffix or path.name != str(path) else "; bayes-merger models lists those that have names"
    raise Missing(f"{path}: there is no such file{_listed(close or inside)}{by_name}")


def _models_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES or (p / "model_index.json").is_file())


def _listed(names: list[str]) -> str:
    return f"; there is {and_more(names)}" if names else "; there is no checkpoint in that folder"
