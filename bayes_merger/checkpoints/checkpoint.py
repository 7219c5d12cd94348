"""Model files, opened lazily: names, shapes and metadata at once and without torch, tensors when asked for.

What is read is what was checked: the file stays open and mapped, privately, so that not even a stray write into a
tensor can reach it.
"""

from __future__ import annotations

import difflib
import hashlib
import mmap
import os
import pickle
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from bayes_merger.checkpoints.architectures import identify
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.checkpoints.header import FLOATS, ITEM_SIZES, Entry, Header, read_header
from bayes_merger.checkpoints.kinds import ModelKind, detect_kind
from bayes_merger.checkpoints.pickles import PICKLE_STARTS, ZIP_START, check_pickle
from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")

# What the restricted unpickler raises on bytes that are not what they should be (seen by changing them one by one).
_UNREADABLE = (
    pickle.UnpicklingError, struct.error, AssertionError, ArithmeticError, AttributeError, EOFError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip

# Names in files from the first months of Stable Diffusion, before transformers renamed them.
_OLD_NAMES = {
    f"cond_stage_model.transformer.{part}.": f"cond_stage_model.transformer.text_model.{part}."
    for part in ("embeddings", "encoder", "final_layer_norm")
}


class Checkpoint:
    """An opened model file; close it, or use it as a context manager.

    Attributes:
        path: of the file.
        shapes: key to shape.
        dtypes: key to dtype as safetensors names it, ``F16``.
        metadata: texts that the file carries about itself.
        computed: whether tensors are made when they are asked for, so that nobody has seen whether they are finite.
    """

    computed = False

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str],
        read: Callable[[str], Tensor],
        close: Callable[[], None],
        release: Callable[[], None] = lambda: None,
        read_part: Callable[[str, int, Tensor], None] | None = None,
    ) -> None:
        self.path = path
        self.shapes: Mapping[str, tuple[int, ...]] = {key: shape for key, (_, shape) in entries.items()}
        self.dtypes: Mapping[str, str] = {key: dtype for key, (dtype, _) in entries.items()}
        self.metadata = metadata
        self._read: Callable[[str], Tensor] | None = read
        self._close = close
        self._release = release
        self._read_part = read_part
        self._sha256 = ""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read for it."""
        return (self.path,)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan should tell of it, one line each."""
        return ()

    @property
    def stored(self) -> Mapping[str, str]:
        """Key to dtype in the file; where a model is computed from others, in the file of the first of them."""
        return self.dtypes

    @property
    def prediction(self) -> str:
        """What the model predicts, ``v`` or ``epsilon``, where the file says it; else empty."""
        said = self.metadata.get("modelspec.prediction_type", self.metadata.get("modelspec.predict_key", ""))
        return {"v": "v", "v_prediction": "v", "epsilon": "epsilon"}.get(said, "")

    @cached_property
    def kind(self) -> ModelKind:
        """What the file is, also when it cannot be merged."""
        return detect_kind(self.shapes)

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture.

        Raises:
            CheckpointError: none that can be merged.
        """
        try:
            return identify(self.shapes)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def keys(self) -> Iterable[str]:
        """The names of the tensors, in the order of the file."""
        return self.shapes.keys()

    def tensor(self, key: str) -> Tensor:
        """The tensor called ``key``, on the CPU and contiguous, mapped from the file: do not write to it.

        Raises:
            CheckpointError: there is none of that name, or the file is closed.
        """
        if self._read is None:
            raise CheckpointError(f"{self.path}: the file is closed")
        if key not in self.shapes:
            raise CheckpointError(f"{self.path}: there is no tensor '{key}' in it")
        return self._read(key)

    @property
    def has_parts(self) -> bool:
        """Whether a part of a tensor can be read without the rest of it."""
        return self._read_part is not None

    def read_part(self, key: str, begin: int, out: Tensor) -> None:
        """Read as many numbers of a tensor as there is room for, into memory that exists: cheaper than mapping them.

        Args:
            key: name of the tensor.
            begin: the first of them, in the order of the file.
            out: a contiguous vector of the tensor's dtype, on the CPU; the tensor has as many numbers from there on.

        Raises:
            CheckpointError: the file was cut short since it was opened, or cannot be read.
        """
        if self._read_part is None or self._read is None:
            raise CheckpointError(f"{self.path}: the file is closed, or cannot be read in parts")
        try:
            self._read_part(key, begin, out)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hex; computed once (about a second per gigabyte)."""
        if not self._sha256:
            with self.path.open("rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sha256

    def scan(self) -> None:
        """Look at every number once.

        Raises:
            CheckpointError: NaN or infinity; the text names the tensor.
        """
        from bayes_merger.checkpoints.nonfinite import find_nonfinite

        for key, dtype in self.dtypes.items():
            if dtype in FLOATS and (fault := find_nonfinite(self.tensor(key))):
                raise CheckpointError(f"{self.path}: tensor '{key}' holds {fault}; this model is broken, use another")

    def release(self) -> None:
        """Let the system have back the memory of what was read; tensors stay valid and are read again when used."""
        self._release()

    def close(self) -> None:
        """Let go of the file; tensors that are still in use stay valid."""
        if self._read is not None:
            self._read = None
            self._close()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model file and validate its header.

    Args:
        path: a ``.safetensors`` file, a ``.ckpt`` that holds nothing but tensors, or a diffusers folder.

    Raises:
        CheckpointError: missing, unreadable, damaged, dangerous, or not a checkpoint at all.
    """
    path = Path(path)
    try:
        if path.is_dir() and any((path / name).exists() for name in ("model_index.json", "unet", "transformer")):
            from bayes_merger.checkpoints.diffusers_folder import open_folder

            return open_folder(path)
        _check_exists(path)
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror}); check its name and permissions") from error
    try:
        return _open(path, file)
    except CheckpointError as error:
        file.close()
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        file.close()
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the disk it is on") from error


def hash_all(checkpoints: Iterable[Checkpoint]) -> None:
    """Compute the SHA-256 of several models at once, a core each; their ``sha256`` then knows it."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(lambda checkpoint: checkpoint.sha256(), checkpoints))


def _check_exists(path: Path) -> None:
    if path.is_dir():
        inside = _models_in(path)
        if (path / "config.json").exists():
            raise CheckpointError(f"{path}: a part of a diffusers folder; give the folder that it lies in, "
                                  "or as vae= the file in it")  # fmt: skip
        if (path / "snapshots").is_dir():
            names = sorted(f"snapshots/{folder.name}" for folder in (path / "snapshots").iterdir())
            raise CheckpointError(f"{path}: a download cache; give the diffusers folder in it{_listed(names)}")
        raise CheckpointError(f"{path}: a folder, not a file; give a checkpoint in it{_listed(inside)}")
    if path.exists():
        if not path.is_file():
            raise CheckpointError(f"{path}: not a regular file; give a .safetensors file")
        return
    if not path.parent.is_dir():
        hub = "" if path.suffix or len(path.parts) != 2 else "; models are not downloaded, give a file or folder here"
        raise CheckpointError(f"{path}: there is no folder {path.parent}; check the path{hub}")
    inside = _models_in(path.parent)
    close = difflib.get_close_matches(path.name, inside, n=3, cutoff=0.5)
    raise CheckpointError(f"{path}: there is no such file{_listed(close or inside)}")


def _models_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES or (p / "model_index.json").is_file())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; there is {', '.join(names[:3])}{more}" if names else "; there is no checkpoint in that folder"


def _open(path: Path, file: BinaryIO) -> Checkpoint:
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError("the file is empty; download or export it again")
    start = file.read(64)
    file.seek(0)
    if start.startswith((ZIP_START, *PICKLE_STARTS)) and not _has_header(start, size):
        file.close()
        return _open_pickle(path)
    if wrong := _not_a_checkpoint(start):
        raise CheckpointError(wrong)
    header = read_header(file, size)
    return _open_mapped(path, file, header)


def _has_header(start: bytes, size: int) -> bool:
    """Whether it begins as safetensors does: one header in two thousand has a length that looks like a pickle."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") + 8 <= size


def _not_a_checkpoint(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the model itself; fetch it with  git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page saved under this name; download the model again, logged in if the site asks for it"
    if len(start) >= 9 and start[8:9] != b"{":
        return "not a checkpoint; give a .safetensors or .ckpt file"
    return ""


def _renamed(key: str, taken: Iterable[str]) -> str:
    for old, new in _OLD_NAMES.items():
        if key.startswith(old):
            modern = new + key.removeprefix(old)
            return key if modern in taken else modern
    return key


def _open_mapped(path: Path, file: BinaryIO, header: Header) -> Checkpoint:
    entries = {_renamed(key, header.entries): entry for key, entry in header.entries.items()}
    mapped = _mapped(file)
    described = {key: (entry.dtype, entry.shape) for key, entry in entries.items()}
    return Checkpoint(
        path,
        described,
        header.metadata,
        lambda key: _view(mapped, entries[key]),
        file.close,
        partial(_release, mapped),
        partial(_read_part, file, entries) if hasattr(os, "preadv") else None,  # not on Windows
    )


def _read_part(file: BinaryIO, entries: Mapping[str, Entry], key: str, begin: int, out: Tensor) -> None:
    import torch

    place = entries[key].begin + begin * out.element_size()
    room = out.view(torch.uint8).numpy().data
    while room:
        count = os.preadv(file.fileno(), [room], place)
        if count == 0:
            raise OSError("it was cut short while it was open")
        room, place = room[count:], place + count


def _mapped(file: BinaryIO) -> mmap.mmap:
    """The file copied on write: torch wants memory it could write to, and the file must never change."""
    if not sys.platform.startswith("linux"):
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # Linux else keeps memory ready for the copies that are never made, and refuses files larger than it has.
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named since Python 3.13
    return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | no_reserve, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _release(mapped: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


def _view(mapped: mmap.mmap, entry: Entry) -> Tensor:
    import torch

    dtype = torch_dtypes()[entry.dtype]
    count = (entry.end - entry.begin) // ITEM_SIZES[entry.dtype]
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.begin).view(entry.shape)


def _open_pickle(path: Path) -> Checkpoint:
    check_pickle(path)
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders aloud about odd bytes; an error says it once
            if path.suffix == ".safetensors":  # torch goes by the name, and takes a path only when it maps the file
                with path.open("rb") as file:
                    loaded = torch.load(file, map_location="cpu", weights_only=True)
            else:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"cannot be read ({reason}); convert it to safetensors") from error
    table = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {k: v.detach() for k, v in table.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not tensors:
        raise CheckpointError("there is no tensor in it; give a whole checkpoint")
    tensors = {_renamed(key, tensors): tensor for key, tensor in tensors.items()}
    names = {dtype: name for name, dtype in torch_dtypes().items()}
    strange = next((k for k, t in tensors.items() if t.dtype not in names), None)
    if strange is not None:
        raise CheckpointError(f"tensor '{strange}' has dtype {tensors[strange].dtype}; convert it to safetensors")
    described = {key: (names[tensor.dtype], tuple(tensor.shape)) for key, tensor in tensors.items()}
    return Checkpoint(path, described, {}, lambda key: tensors[key].contiguous(), lambda: None)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == ZIP_START


@cache
def torch_dtypes() -> dict[str, torch.dtype]:
    """The dtype names of files to torch's own."""
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
        "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
