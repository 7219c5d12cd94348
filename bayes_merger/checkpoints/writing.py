"""Writing a safetensors file: streamed, checked, and in its place only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from bayes_merger.atomic import hidden_name, sync_folder
from bayes_merger.checkpoints.checkpoint import Checkpoint, check_all_unchanged, torch_dtypes
from bayes_merger.checkpoints.header import FLOATS, ITEM_SIZES, METADATA
from bayes_merger.errors import CheckpointError, ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = 2**20  # bytes that a file system needs for itself
_PIECE = 2**20  # bytes written at a time: longer writes are cached in larger pages, three times slower


class NotFinite(CheckpointError):
    """A tensor that was to be written holds NaN or infinity."""


class TensorEntry(NamedTuple):
    """One tensor to write.

    Attributes:
        key: its name.
        shape: of it.
        dtype: as files name it, ``F16``.
        tensor: the tensor, or a function that makes it when it is written, whole or in flat pieces, one after another.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    tensor: Tensor | Callable[[], Tensor | Iterator[Tensor]]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


Metadata = Mapping[str, str]


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a place for a file that was given as ``--out``.

    Raises:
        ConfigError: it is taken, or there is no such folder, or nobody may write in it.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} exists; give another name or add --overwrite")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.parent}; make it first")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"--out: nothing can be written in the folder {out.parent}; give another")


def check_no_input(out: Path, inputs: Iterable[Checkpoint]) -> None:
    """Refuse a place that has a file which is read, also under another name.

    Raises:
        CheckpointError: it has; its subject is the place.
    """
    for given in (file for checkpoint in inputs for file in checkpoint.files):
        if out.exists() and given.exists() and out.samefile(given):
            other = "" if given == out else f", as {given}"
            raise CheckpointError(f"is read for what would be written{other}; give another name", subject=str(out))


def write_checkpoint(
    path: str | Path,
    tensors: Iterable[TensorEntry | tuple[str, tuple[int, ...], str, Tensor | Callable[[], Tensor]]],
    metadata: Metadata | Callable[[], Metadata] | None = None,
    *,
    inputs: Collection[Checkpoint] = (),
    replace: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a safetensors file completely, or not at all.

    It is written under a hidden name in the same folder, flushed to disk and renamed. Tensors are ordered as the
    safetensors library does (wide dtypes first, then by name), so the same tensors give the same bytes.

    Args:
        path: the file.
        tensors: what goes into it; at most one of them is in memory at a time when they are made on demand.
        metadata: strings for the header, or a function that makes them once everything else is checked.
        inputs: opened models that are read for it: their files are not written over, also not under another name,
            and must be unchanged at the end.
        replace: whether a file that is already there may be replaced.
        progress: called with the bytes done and their total after every tensor.

    Raises:
        CheckpointError: the place is taken, not writable or too small, or a tensor holds NaN or infinity: its subject
            is the path. Or an input has changed.
    """
    path = Path(path)
    entries = sorted((TensorEntry(*entry) for entry in tensors), key=lambda e: (-ITEM_SIZES[e.dtype], e.dtype, e.key))
    total = sum(entry.size for entry in entries)
    try:
        _check_place(path, inputs, replace)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise CheckpointError(f"cannot be written ({error.strerror}); check the path", subject=str(path)) from error
    if free < total + _ROOM:
        raise CheckpointError(
            f"needs {_megabytes(total + _ROOM)} and its disk has {_megabytes(free)} free; free up space there",
            subject=str(path),
        )
    header = _header(entries, dict(metadata() if callable(metadata) else metadata or {}))
    with _temporary(path) as file:
        file.write(header)
        done = 0
        for entry in entries:
            try:
                _write_tensor(file, entry, path)
            except NotFinite as error:
                raise with_culprit(error, entry.key, inputs) from None
            done += entry.size
            if progress:
                progress(done, total)
        check_all_unchanged(inputs)


def _check_place(path: Path, inputs: Collection[Checkpoint], replace: bool) -> None:
    if path.is_dir():
        raise CheckpointError("a folder; give the name of a file in it", subject=str(path))
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no folder {path.parent}; make it first", subject=str(path))
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"nothing can be written in {path.parent}; give another folder", subject=str(path))
    if path.exists():
        check_no_input(path, inputs)
        if not replace:
            raise CheckpointError("exists already; give another name, or allow replacing it", subject=str(path))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _header(entries: Sequence[TensorEntry], metadata: Metadata) -> bytes:
    texts = {name: _in_unicode(text) for name, text in metadata.items()}
    table: dict[str, object] = {METADATA: texts} if texts else {}
    begin = 0
    for entry in entries:
        if entry.key in table:
            raise CheckpointError(f"'{entry.key}' is given twice; a file holds each tensor once")
        end = begin + entry.size
        table[entry.key] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def _in_unicode(text: str) -> str:
    """A text that every reader takes: names of files may be in no encoding."""
    return text.encode("utf-8", "replace").decode()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces ``path`` at the end, and is removed if anything goes wrong."""
    temporary = path.with_name(f"{hidden_name(path.name)}.{os.getpid()}.tmp")
    try:
        _sweep(path)
        with temporary.open("wb") as file:
            _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # of a disk that nobody may write
            temporary.unlink(missing_ok=True)
        way_out = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "check that folder"
        raise CheckpointError(f"cannot be written ({error.strerror}); {way_out}", subject=str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _lock(file: BinaryIO) -> bool:
    """Mark a file as being written for as long as this process lives; returns whether that worked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system does not support locks
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove what writers of ``path`` that were killed have left behind: gigabytes that would stay hidden."""
    for left in path.parent.glob(f"{glob.escape(hidden_name(path.name))}.*.tmp"):
        with contextlib.suppress(OSError):
            if fcntl is None:  # Windows deletes no file that somebody has open
                left.unlink()
                continue
            with left.open("rb") as file:
                if _lock(file):
                    left.unlink()


def _write_tensor(file: BinaryIO, entry: TensorEntry, path: Path) -> None:
    import torch

    from bayes_merger.checkpoints.nonfinite import find_nonfinite

    made = entry.tensor() if callable(entry.tensor) else entry.tensor
    if isinstance(made, torch.Tensor) and tuple(made.shape) != tuple(entry.shape):
        raise _unannounced(entry, f"{list(made.shape)} {made.dtype}")
    count = 0
    for tensor in (made,) if isinstance(made, torch.Tensor) else made:
        if tensor.dtype != torch_dtypes()[entry.dtype]:
            raise _unannounced(entry, f"{list(tensor.shape)} {tensor.dtype}")
        piece = tensor.detach().cpu().contiguous()
        if entry.dtype in FLOATS and (fault := find_nonfinite(piece)):
            raise not_finite(entry.key, fault, path)
        count += piece.numel()
        if piece.numel():
            data = piece.reshape(-1).view(torch.uint8).numpy().data
            for begin in range(0, len(data), _PIECE):
                file.write(data[begin : begin + _PIECE])
    if count != math.prod(entry.shape):
        raise _unannounced(entry, f"{count} numbers")


def not_finite(key: str, fault: str, path: Path | None = None) -> NotFinite:
    """The refusal of a tensor with NaN or infinity, and of what else was to be written to ``path``."""
    return NotFinite(
        f"not written, '{key}' would hold {fault}; "
        "choose weights nearer to [0, 1], or dtype=fp32 if the numbers are too large for half precision",
        subject=str(path or ""),
    )


def with_culprit(error: NotFinite, key: str, inputs: Collection[Checkpoint]) -> NotFinite:
    """The error, which names the model that holds such numbers itself, where one does."""
    from bayes_merger.checkpoints.nonfinite import check_model

    for model in inputs:
        try:
            if model.dtypes.get(key) in FLOATS:
                check_model(model.path, key, model.tensor(key))
        except CheckpointError as broken:
            return NotFinite(f"not written, {broken}", subject=error.subject)
    return error


def _unannounced(entry: TensorEntry, found: str) -> CheckpointError:
    return CheckpointError(f"'{entry.key}' is {found}, not {list(entry.shape)} {entry.dtype} as announced")
