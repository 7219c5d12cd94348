"""One model file, opened lazily: safetensors mapped into memory, pickles read by the restricted unpickler.

The bytes that were checked are the bytes that are read: the file stays open in a private mapping, so that even a
stray write into a tensor cannot reach it.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
import struct
import sys
import threading
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bayes_merger.checkpoints.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.checkpoints.header import ITEM_SIZES, Entry, Header, read_header
from bayes_merger.checkpoints.pickles import INERT, PICKLE_STARTS, ZIP_START, check_pickle
from bayes_merger.checkpoints.prediction import MARKS
from bayes_merger.checkpoints.quantised import as_meant
from bayes_merger.checkpoints.text_encoders import under_official_names
from bayes_merger.errors import CheckpointError, Missing, one_line, printable
from bayes_merger.paths import open_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
"""How model files are called."""

# What the restricted unpickler raises on bytes that are not what they should be (seen by changing them one by one).
_UNREADABLE = (
    pickle.UnpicklingError, struct.error, AssertionError, ArithmeticError, AttributeError, EOFError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip

_UNPICKLING = threading.Lock()  # what torch allows, and which warnings are shown, is of the whole process

# What trainers put a model's tensors into, before or in the place of averages, and what stands before all names.
_TABLES = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params",
           "string_to_param")  # fmt: skip
_WRAPPED = ("state_dict.", "model.")
# Parts of names that compilation, parallel training and saving memory put in, anywhere: they mean nothing.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
_ARCHIVES = (b"Rar!", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")

# CLIP's part without this in its names: files from the first months of Stable Diffusion, and of transformers 5.
_CLIP = re.compile(
    r"(?:cond_stage_model\.(?:clip_[lgh]\.)?|conditioner\.embedders\.[01]\.|(?:text_encoders\.)?clip_[lgh]\.)transformer\."
    r"(?=(?:embeddings|encoder|final_layer_norm)\.)"
)
# The attention of VAEs by the names of diffusers, new and old, as converters of 2023 wrote it into single files.
_VAE_ATTENTION = re.compile(
    r"(?<=coder\.mid\.attn_1\.)(?:to_)?(q|k|v|query|key|value|out\.0|proj_attn|group_norm)(?=\.(?:weight|bias)$)"
)
_VAE_ATTENTION_NAMES = {
    "query": "q",
    "key": "k",
    "value": "v",
    "out.0": "proj_out",
    "proj_attn": "proj_out",
    "group_norm": "norm",
}
_MARK = re.compile(rf"^(?:model\.)?(?:diffusion_model\.)?(?=(?:{'|'.join(map(re.escape, MARKS))})$)")


def open_file(path: Path) -> Checkpoint:
    """Open one model file and validate its header.

    Args:
        path: a ``.safetensors`` file, or a ``.ckpt`` (``.pt``, ``.pth``, ``.bin``) that holds nothing but tensors; what
            it is is read from its first bytes.

    Raises:
        CheckpointError: missing, unreadable, damaged, dangerous, or not a checkpoint; the text begins with the path.
    """
    return as_model(open_stored(path))


def as_model(file: Checkpoint) -> Checkpoint:
    """What is stored in a file, or in several, as a model: the numbers it means, under the names of official files.

    Args:
        file: opened; closed with what is returned, or by an error.

    Raises:
        CheckpointError: it is quantised in a way that is not read; the text begins with the path.
    """
    try:
        return under_official_names(as_meant(file))
    except CheckpointError as error:
        file.close()
        raise CheckpointError(f"{file.path}: {error}") from error


def open_stored(path: Path) -> Checkpoint:
    """Open one file, with its tensors as they are stored.

    Raises:
        CheckpointError: as ``open_file``.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        kind = Missing if isinstance(error, FileNotFoundError) else CheckpointError
        raise kind(f"{path}: cannot be opened ({error.strerror}); check its name and permissions") from error
    try:
        return _open(path, file)
    except CheckpointError as error:
        file.close()
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        file.close()
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the disk it is on") from error


def _open(path: Path, file: BinaryIO) -> Checkpoint:
    size = os.fstat(file.fileno()).st_size
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
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the model itself; fetch it with  git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page saved under this name; download the model again, logged in if the site asks for it"
    if start.startswith(b"GGUF"):
        return "a quantised model in GGUF, which is not read; give the file in fp16, bf16 or fp32 that it was made from"
    if len(start) < 9 or start[8:9] == b"{":  # the header's begin; its length before it may look like anything
        return ""
    if not start.strip(b"\0"):
        return "nothing but zeros, an unfinished download; download it again"
    if text.startswith(b"{"):
        return (
            "a message of a web site saved under this name; download the model again, logged in if the site asks for it"
        )
    if start.startswith(_ARCHIVES):
        return "an archive; unpack it, and give the model in it"
    if start.startswith(_PICTURES):
        return "a picture; give the model beside it"
    if start.isascii() and text.decode().isprintable():
        shown = one_line(start.decode(), longest=40)
        return f"a text ('{shown}'); download the model again, logged in if the site asks for it"
    return "not a checkpoint; give a .safetensors or .ckpt file"


def _names(keys: Collection[str]) -> dict[str, str]:
    """Each key of a file -> what it is called here."""
    bare = {key: _WRAPPER.sub("", key) for key in keys}
    if len(set(bare.values())) < len(bare):
        bare = {key: key for key in keys}
    start = ""
    while wrapper := next((w for w in _WRAPPED if all(key.startswith(start + w) for key in bare.values())), ""):
        if wrapper == "model." and not any(key.startswith(f"{start}model.model.") for key in bare.values()):
            break  # a U-Net alone, or another network
        start += wrapper
    names = {key: name.removeprefix(start) for key, name in bare.items()}
    taken = set(names.values())
    return {key: _up_to_date(name, taken) for key, name in names.items()}


def _up_to_date(name: str, taken: Collection[str]) -> str:
    if "transformer." in name[:40]:
        found = _CLIP.sub(r"\g<0>text_model.", name, count=1) if _CLIP.match(name) else name
    elif "mid.attn_1." in name:
        found = _VAE_ATTENTION.sub(lambda part: _VAE_ATTENTION_NAMES.get(part[1], part[1]), name)
    else:
        found = _MARK.sub("", name)
    return name if found in taken else found


def _convolutions(names: Mapping[str, str]) -> Collection[str]:
    """What is a matrix by its own name, and a 1x1 convolution by that which it has here: the VAE's attention."""
    return {
        name for key, name in names.items() if "mid.attn_1." in name and not key.endswith(name[name.index("attn_1.") :])
    }


def _open_mapped(path: Path, file: BinaryIO, header: Header) -> Checkpoint:
    names = _names(header.entries)
    entries = {names[key]: entry for key, entry in header.entries.items()}
    for key in _convolutions(names):
        if len(entries[key].shape) == 2:
            entries[key] = replace(entries[key], shape=(*entries[key].shape, 1, 1))
    mapped = _mapped(file)
    described = {key: (entry.dtype, entry.shape) for key, entry in entries.items()}
    return Checkpoint(
        path,
        described,
        header.metadata,
        partial(_view, file, mapped, entries),
        file.close,
        partial(_release, mapped),
        partial(_read_part, file, entries) if hasattr(os, "preadv") else None,  # not on Windows
        partial(_array, file, mapped, entries),
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
    """The file copied on write: torch requires writable memory, and the file must never change."""
    if not sys.platform.startswith("linux"):
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # Otherwise Linux reserves memory for copies that are never made, and refuses files larger than RAM.
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named since Python 3.13
    return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | no_reserve, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _release(mapped: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


def _view(file: BinaryIO, mapped: mmap.mmap, entries: Mapping[str, Entry], key: str) -> Tensor:
    import torch

    entry = _whole(file, entries[key])
    dtype = torch_dtypes()[entry.dtype]
    count = (entry.end - entry.begin) // ITEM_SIZES[entry.dtype]
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.begin).view(entry.shape)


def _array(file: BinaryIO, mapped: mmap.mmap, entries: Mapping[str, Entry], key: str) -> NDArray[np.floating]:
    import numpy as np

    entry = _whole(file, entries[key])
    dtype = np.dtype(f"<f{ITEM_SIZES[entry.dtype]}")
    if entry.begin == entry.end:
        return np.empty(entry.shape, dtype)
    count = (entry.end - entry.begin) // dtype.itemsize
    return np.frombuffer(mapped, dtype, count, entry.begin).reshape(entry.shape)


def _whole(file: BinaryIO, entry: Entry) -> Entry:
    """Touching what is not there any more would end the process."""
    if os.fstat(file.fileno()).st_size < entry.end:
        raise CheckpointError(f"{file.name}: was cut short while it was open; put back the file that was there")
    return entry


def _open_pickle(path: Path) -> Checkpoint:
    check_pickle(path)
    import torch

    try:
        harmless = torch.serialization.safe_globals([(inert, name) for name, inert in INERT.items()])
        with _UNPICKLING, warnings.catch_warnings(), harmless:
            warnings.simplefilter("ignore")  # torch warns about odd bytes; the error is enough
            if path.suffix == ".safetensors":  # torch decides by the name and takes a path only when mapping
                with path.open("rb") as file:
                    loaded = torch.load(file, map_location="cpu", weights_only=True)
            else:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except _UNREADABLE as error:
        reason = one_line(str(error).rpartition("WeightsUnpickler error:")[2])
        raise CheckpointError(f"cannot be read ({reason}); convert it to safetensors") from error
    found = _tensors_in(loaded)
    if not found:
        raise CheckpointError("it holds no tensors; give a whole checkpoint")
    own = _names(found)
    tensors = {own[key]: tensor.detach() for key, tensor in found.items()}
    tensors |= {key: tensors[key][:, :, None, None] for key in _convolutions(own) if tensors[key].dim() == 2}
    names = {dtype: name for name, dtype in torch_dtypes().items()}
    strange = next((k for k, t in tensors.items() if t.dtype not in names), None)
    if strange is not None:
        raise CheckpointError(
            f"tensor '{printable(strange)}' has dtype {tensors[strange].dtype}; convert it to safetensors"
        )
    # Numbers that are repeated are stored once; as many bytes as the whole file has are believed.
    size = path.stat().st_size
    large = next((k for k, t in tensors.items() if t.nbytes > max(size, t.untyped_storage().nbytes())), None)
    if large is not None:
        raise CheckpointError(
            f"tensor '{printable(large)}' has more numbers than are stored; convert it to safetensors"
        )
    described = {key: (names[tensor.dtype], tuple(tensor.shape)) for key, tensor in tensors.items()}
    return Checkpoint(path, described, {}, lambda key: tensors[key].contiguous(), lambda: None)


def _tensors_in(table: object) -> dict[str, Tensor]:
    """The tensors of the model in what was pickled: in the table itself, or in the largest of those inside.

    One that is called otherwise than a model (``ema``, ``generator``) counts where no other is half as large.
    """
    known, all_of_them = _largest(table, _TABLES), _largest(table, None)
    return known if 2 * len(known) >= len(all_of_them) else all_of_them


def _largest(table: object, names: Collection[str] | None, depth: int = 4) -> dict[str, Tensor]:
    """The tensors in the largest of a table and those in it that have one of these names, or any name."""
    import torch

    found: dict[str, Tensor] = {}
    seen: set[int] = set()  # a pickle may name one table a million times
    level = [table]
    for _ in range(depth):
        inside: list[object] = []
        for each in level:
            if isinstance(each, dict) and id(each) not in seen:
                seen.add(id(each))
                own = {k: v for k, v in each.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
                found = max(found, own, key=len)
                inside += each.values() if names is None else (each[name] for name in names if name in each)
        level = inside
    return found


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == ZIP_START
