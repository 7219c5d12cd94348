"""An opened model file: names, shapes and metadata at once and without torch, tensors when they are read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.architectures import identify
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.checkpoints.hashes import sha256_of
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.checkpoints.kinds import ModelKind, detect_kind
from bayes_merger.checkpoints.prediction import predicted
from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


class Checkpoint:
    """An opened model file; close it, or use it as a context manager.

    Attributes:
        path: of the file.
        shapes: key to shape.
        dtypes: key to dtype as safetensors names it, ``F16``.
        metadata: strings from the file's header.
        constant: whether every tensor stays the same for as long as this is open, so that it may be kept in memory.
            ``False`` where searched weights change some of them; those are never kept.
        computed: whether tensors are computed when they are read, so that they have not been checked to be finite.
        reordered: whether its neurons stand in another order than in its file.
        derived: whether it is made of other models, so that no file has it as it is.
    """

    constant: bool = True
    computed: bool = False
    reordered: bool = False
    derived: bool = False

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str],
        read: Callable[[str], Tensor],
        close: Callable[[], None],
        release: Callable[[], None] = lambda: None,
        read_part: Callable[[str, int, Tensor], None] | None = None,
        read_array: Callable[[str], NDArray[np.floating]] | None = None,
    ) -> None:
        self.path = path
        self.shapes: Mapping[str, tuple[int, ...]] = {key: shape for key, (_, shape) in entries.items()}
        self.dtypes: Mapping[str, str] = {key: dtype for key, (dtype, _) in entries.items()}
        self.metadata = metadata
        self._read: Callable[[str], Tensor] | None = read
        self._close = close
        self._release = release
        self._read_part = read_part
        self._read_array = read_array
        self._opened = {file: identity for file in self.files if (identity := _identity(file))}
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
        """Notes to show in a plan, one line each."""
        return ()

    @property
    def stored(self) -> Mapping[str, str]:
        """Key to dtype in the file; where a model is computed from others, in the file of the first of them."""
        return self.dtypes

    @property
    def prediction(self) -> str:
        """What the model predicts, a kind of ``checkpoints.prediction``, where the file says it; else empty."""
        return predicted(self.shapes.keys(), self.metadata)

    @cached_property
    def kind(self) -> ModelKind:
        """The kind of the file, also when it cannot be merged."""
        return detect_kind(self.shapes)

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture.

        Raises:
            CheckpointError: none that can be merged.
        """
        try:
            return identify(self.shapes, self.kind, self.dtypes)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def keys(self) -> Iterable[str]:
        """The names of the tensors, in the order of the file."""
        return self.shapes.keys()

    def tensor(self, key: str) -> Tensor:
        """The tensor called ``key``, on the CPU and contiguous, mapped from the file: do not write to it.

        Raises:
            CheckpointError: no tensor has that name, or the file is closed.
        """
        if self._read is None:
            raise CheckpointError(f"{self.path}: the file is closed")
        if key not in self.shapes:
            raise CheckpointError(f"{self.path}: has no tensor '{key}'")
        return self._read(key)

    def array(self, key: str) -> NDArray[np.floating]:
        """A tensor of floating-point numbers as an array of numpy, mapped from the file where numpy has its dtype.

        It needs no torch then, whose import takes longer than all else of a command that only shows numbers.

        Raises:
            CheckpointError: no tensor has that name, or the file is closed or was cut short.
        """
        if self._read is None or self._read_array is None or self.dtypes.get(key) not in ("F64", "F32", "F16"):
            return self.tensor(key).double().numpy()
        return self._read_array(key)

    def version(self, key: str) -> Hashable:
        """A value that stays equal as long as the tensor has the same bits, and differs when the bits may differ.

        Asked only where ``constant`` is ``False``, for every tensor of every candidate, so it must be cheap.
        ``version`` and ``tensor`` are asked one after the other, with no change in between.
        """
        return None

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
        """The SHA-256 of the whole file, in hex; it is remembered, also by later runs, until the file changes.

        Raises:
            CheckpointError: it has changed since it was opened, or is gone.
        """
        if not self._sha256:
            self.check_unchanged()
            self._sha256 = sha256_of(self.path)
        return self._sha256

    def check_unchanged(self) -> None:
        """Check that its files are those that were opened, as they were then; costs no reading.

        Raises:
            CheckpointError: one was replaced, written to, cut short or deleted since.
        """
        for file, opened in self._opened.items():
            now = _identity(file)
            if now != opened:
                what = "has changed since it was opened" if now else "is gone"
                raise CheckpointError(f"{file}: {what}; put back the file that was there and try again")

    def scan(self) -> None:
        """Check that every number is finite.

        Raises:
            CheckpointError: NaN or infinity; the text names the tensor.
        """
        from bayes_merger.checkpoints.nonfinite import find_nonfinite

        for key, dtype in self.dtypes.items():
            if dtype in FLOATS and (fault := find_nonfinite(self.tensor(key))):
                raise CheckpointError(f"{self.path}: tensor '{key}' holds {fault}; this model is broken, use another")
            self.release()  # the file is never in memory as a whole

    def release(self) -> None:
        """Release the memory of what was read; tensors stay valid and are read again when used."""
        self._release()

    def close(self) -> None:
        """Close the file; tensors that are still in use stay valid."""
        if self._read is not None:
            self._read = None
            self._close()


class ModelView(Checkpoint):
    """A model seen through another: everything that a subclass does not override is that of the model.

    Args:
        model: the model, which is closed with this.
        names: key to the model's own key, for the tensors to show; all under their own names by default.
        entries: key to dtype and shape; those of the model's tensors by default. A shape may differ from the model's,
            the count of numbers may not.
    """

    def __init__(
        self,
        model: Checkpoint,
        names: Mapping[str, str] | None = None,
        entries: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
    ) -> None:
        self._model = model
        self._names = {key: key for key in model.shapes} if names is None else names
        if entries is None:
            entries = {key: (model.dtypes[own], model.shapes[own]) for key, own in self._names.items()}
        super().__init__(
            model.path,
            entries,
            model.metadata,
            self._read_model,
            model.close,
            model.release,
            self._read_part_of_model if model.has_parts else None,
        )
        self.constant, self.computed = model.constant, model.computed
        self.reordered, self.derived = model.reordered, model.derived

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the model."""
        return self._model.files

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the model."""
        return self._model.notes

    @property
    def stored(self) -> Mapping[str, str]:
        """Key to dtype in the model's file."""
        return {key: self._model.stored[own] for key, own in self._names.items()}

    @property
    def prediction(self) -> str:
        """What the model predicts."""
        return self._model.prediction

    def version(self, key: str) -> Hashable:
        """That of the model's tensor."""
        return self._model.version(self._names[key])

    def sha256(self) -> str:
        """That of the model."""
        return self._model.sha256()

    def _read_model(self, key: str) -> Tensor:
        return self._model.tensor(self._names[key]).view(self.shapes[key])

    def _read_part_of_model(self, key: str, begin: int, out: Tensor) -> None:
        self._model.read_part(self._names[key], begin, out)


def _identity(file: Path) -> tuple[int, ...] | None:
    """What differs when a file was replaced, written to or cut short; ``None`` where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_all_unchanged(checkpoints: Iterable[Checkpoint]) -> None:
    """Check that the files of several models are those that were opened.

    Raises:
        CheckpointError: one was replaced, written to, cut short or deleted since.
    """
    for checkpoint in checkpoints:
        checkpoint.check_unchanged()


@cache
def torch_dtypes() -> dict[str, torch.dtype]:
    """The dtype names of files to torch's own."""
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
        "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
        "F8_E8M0": torch.float8_e8m0fnu, "C64": torch.complex64,
    }  # fmt: skip
