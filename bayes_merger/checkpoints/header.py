"""The header of a safetensors file, read and validated without torch in milliseconds.

The format: eight bytes with the length of a JSON object, the object (key to dtype, shape and byte range), the bytes.
See https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from bayes_merger.errors import CheckpointError, nearest, printable

ITEM_SIZES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip
"""Bytes per number of every supported dtype."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

_QUANTISED = ("F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I4", "U4")

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself. A real header has well under one million."""

METADATA = "__metadata__"
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which JSON can escape and no file can hold
_AGAIN = "the file is damaged: download or export it again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor is stored.

    Attributes:
        dtype: as in the file, ``F16``.
        shape: of the tensor.
        begin: first byte, counted from the start of the file.
        end: one past the last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds: key to entry, and its metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(file: BinaryIO, size: int) -> Header:
    """The validated header of a safetensors file.

    Args:
        file: opened at its start.
        size: of the file, bytes.

    Raises:
        CheckpointError: the header is invalid or inconsistent; the text does not name the file.
    """
    if size < 8:
        raise CheckpointError(f"{size} bytes are too few for a checkpoint; {_AGAIN}")
    length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise CheckpointError(f"it claims a header of {length} bytes, more than {LARGEST_HEADER}; {_AGAIN}")
    if length + 8 > size:
        raise CheckpointError(f"truncated: the header needs {length + 8} bytes and the file has {size}; {_AGAIN}")
    table = _table(file.read(length))
    metadata = _metadata(table.pop(METADATA, None))
    start = 8 + length
    entries = {key: _entry(key, value, start) for key, value in table.items()}
    if not entries:
        raise CheckpointError(f"it holds no tensors; {_AGAIN}")
    _check_ranges(entries, start, size)
    return Header(entries, metadata)


def _table(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise CheckpointError(f"'{printable(twice)}' appears twice in its header; {_AGAIN}")
        return found

    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"its header is not JSON; {_AGAIN}") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"its header is not a JSON object; {_AGAIN}")
    if any(_SURROGATE.search(key) for key in table):
        raise CheckpointError(f"its header has names that are no text; {_AGAIN}")
    return table


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"its metadata is not an object of strings; {_AGAIN}")
    return value


def _entry(key: str, value: Any, start: int) -> Entry:
    shown = printable(key)
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        raise CheckpointError(f"tensor '{shown}' is not described by dtype, shape and data_offsets; {_AGAIN}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype in _QUANTISED:
        raise CheckpointError(
            f"tensor '{shown}' is quantised to {dtype}, which is not read; "
            "give the file in fp16, bf16 or fp32 that it was made from"
        )
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise CheckpointError(
            f"tensor '{shown}' has dtype '{printable(str(dtype))}'; {nearest(str(dtype), ITEM_SIZES)}"
        )
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"tensor '{shown}' has no valid shape or offsets; {_AGAIN}")
    begin, end = offsets
    wanted = math.prod(shape) * ITEM_SIZES[dtype]
    if end - begin != wanted:
        raise CheckpointError(f"tensor '{shown}' needs {wanted} bytes and has {end - begin}; {_AGAIN}")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_ranges(entries: Mapping[str, Entry], start: int, size: int) -> None:
    """Every byte of the file belongs to exactly one tensor."""
    end = start
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise CheckpointError(
                f"truncated: tensor '{printable(key)}' ends at byte {entry.end} and the file has {size}; {_AGAIN}"
            )
        if entry.begin != end:
            what = "overlaps the one before it" if entry.begin < end else "leaves a gap before it"
            raise CheckpointError(f"tensor '{printable(key)}' {what}; {_AGAIN}")
        end = entry.end
    if end != size:
        raise CheckpointError(f"{size - end} bytes at its end belong to no tensor; {_AGAIN}")
