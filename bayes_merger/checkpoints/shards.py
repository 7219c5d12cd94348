"""A model that was saved in several files, ``m-00001-of-00003.safetensors`` and so on, as one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.single_file import as_model, open_stored
from bayes_merger.errors import CheckpointError, and_more, printable

if TYPE_CHECKING:
    from torch import Tensor

INDEX = ".index.json"
"""How the name of a file ends that lists those of a model."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.\w+$)")
_MOST = 1000  # files; the largest public models have a few dozen


def shards_of(path: Path) -> list[Path]:
    """The files of the model that a file is a part of, or the index of; none where it is whole.

    Raises:
        CheckpointError: some of them are not there, or they are too many.
    """
    given, found = path, _SHARD.search(path.name)
    if path.name.endswith(INDEX):
        path = _first_part(path)
        found = _SHARD.search(path.name)
    count = int(found[2]) if found else 1
    if count > _MOST:
        raise CheckpointError(f"{given}: says that it is one of {count} files of a model; at most {_MOST} are read")
    if not found or count < 2:
        return [path] if path != given else []
    names = [f"-{number:05d}-of-{found[2]}" for number in range(1, count + 1)]
    files = [path.with_name(path.name[: found.start()] + name + path.name[found.end() :]) for name in names]
    if lacking := [printable(file.name) for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{path}: one of {len(files)} files of a model, and {and_more(lacking)} is not beside it; put it there"
        )
    return files


def _first_part(index: Path) -> Path:
    """The first file of the model that an index is of.

    Raises:
        CheckpointError: there is none beside it, or there are those of two models.
    """
    whole = index.name.removesuffix(INDEX)
    start, _, suffix = whole.rpartition(".")
    named = re.compile(rf"{re.escape(start)}{_SHARD.pattern}")
    parts = sorted(file for file in index.parent.iterdir() if named.match(file.name))
    parts = [file for file in parts if file.suffix == f".{suffix}"] or parts
    firsts = list({_set_of(file): file for file in reversed(parts)}.values())[::-1]
    if not firsts:
        raise CheckpointError(f"{index}: lists the files of a model, none of which is beside it; put them there")
    if len(firsts) > 1:
        names = " and ".join(printable(file.name) for file in firsts[:2])
        raise CheckpointError(f"{index}: beside it are the files of several models, {names}; give one of these instead")
    return firsts[0]


def _set_of(file: Path) -> tuple[str, str]:
    """What the files of one model have in common: how many they are, and their kind."""
    found = _SHARD.search(file.name)
    assert found is not None
    return found[2], file.suffix


def is_further_part(path: Path) -> bool:
    """Whether a file is a part of a model, and not the first one beside it."""
    found = _SHARD.search(path.name)
    if found is None or found[1] == f"{1:05d}":
        return False
    first = f"{path.name[: found.start()]}-{1:05d}-of-{found[2]}{path.name[found.end() :]}"
    return path.with_name(first).is_file()


class Joined(Checkpoint):
    """A model in several files.

    Args:
        path: by which it was given.
        shards: the opened files, which are closed with this.

    Raises:
        CheckpointError: a tensor is in two of them.
    """

    def __init__(self, path: Path, shards: Sequence[Checkpoint]) -> None:
        self._shards = tuple(shards)
        self._owners: dict[str, Checkpoint] = {}
        for shard in shards:
            if twice := next((key for key in shard.shapes if key in self._owners), None):
                other = self._owners[twice].path.name
                raise CheckpointError(f"{shard.path}: has '{printable(twice)}', as {printable(other)} has; use another")
            self._owners |= dict.fromkeys(shard.shapes, shard)
        entries = {key: (shard.dtypes[key], shard.shapes[key]) for key, shard in self._owners.items()}
        in_parts = all(shard.has_parts for shard in shards)
        metadata = {name: text for shard in shards for name, text in shard.metadata.items()}
        super().__init__(
            path,
            entries,
            metadata,
            lambda key: self._owners[key].tensor(key),
            self._close_all,
            self._release_all,
            self._read_owners_part if in_parts else None,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(shard.path for shard in self._shards)

    def sha256(self) -> str:
        """The SHA-256 of their hashes, a line for each in their order, in hex."""
        if not self._sha256:
            lines = "".join(f"{shard.sha256()}\n" for shard in self._shards)
            self._sha256 = hashlib.sha256(lines.encode()).hexdigest()
        return self._sha256

    def _read_owners_part(self, key: str, begin: int, out: Tensor) -> None:
        self._owners[key].read_part(key, begin, out)

    def _release_all(self) -> None:
        for shard in self._shards:
            shard.release()

    def _close_all(self) -> None:
        for shard in self._shards:
            shard.close()


def open_joined(path: Path, files: Sequence[Path]) -> Checkpoint:
    """Open the files of a model as one.

    Raises:
        CheckpointError: one cannot be read, or they have a tensor in common.
    """
    with ExitStack() as opened:
        found = Joined(path, [opened.enter_context(open_stored(file)) for file in files])
        opened.pop_all()
    return as_model(found)
