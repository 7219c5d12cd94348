"""Textual inversion: files of vectors that stand for a word in a prompt (https://arxiv.org/abs/2208.01618).

A file is called by its name, without the suffix, wherever the prompt has that word, as in A1111. Vectors are in
`.safetensors`, or in `.pt` and `.bin` files that hold nothing but tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.documents import files_below
from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pt", ".bin")
_MOST_VECTORS = 75  # a chunk of a prompt has no room for more
_ORDER = ("clip_l", "clip_g")  # the text encoders of SDXL and SD3, as their files name them


def embeddings_in(folder: Path, texts: Iterable[str]) -> dict[str, Path]:
    """The files in a folder whose names are words of some prompts, by name."""
    said = "\n".join(texts).lower()
    return {
        path.stem: path
        for path in files_below(folder, SUFFIXES)
        if re.search(rf"(?<!\w){re.escape(path.stem.lower())}(?!\w)", said)
    }


def read_embedding(path: Path) -> list[Tensor]:
    """The vectors in a file, fp32, of shape `(vectors, width)`: one tensor for each text encoder that it is for.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    with open_checkpoint(path) as file:
        keys = [key for key in _ORDER if key in file.shapes] or list(file.shapes)
        tensors = [file.tensor(key).float().clone() for key in keys if file.shapes[key]]
    tensors = [tensor[None] if tensor.dim() == 1 else tensor for tensor in tensors]
    if not 1 <= len(tensors) <= len(_ORDER) or any(tensor.dim() != 2 for tensor in tensors):
        raise CheckpointError(f"{path}: is no embedding; a file of one to two tables of vectors is")
    if any(len(tensor) > _MOST_VECTORS or not tensor.isfinite().all() for tensor in tensors):
        raise CheckpointError(f"{path}: holds more than {_MOST_VECTORS} vectors, or NaN; use another file")
    return tensors


def for_encoders(path: Path, tensors: list[Tensor], widths: Mapping[int, int]) -> dict[int, Tensor]:
    """The vectors for each text encoder.

    Args:
        path: of the file.
        tensors: what is in it.
        widths: place of a text encoder to the width of its vectors.

    Raises:
        CheckpointError: it is for other text encoders.
    """
    found = {}
    for place, width in widths.items():
        fitting = [tensor for tensor in tensors if tensor.shape[1] == width]
        if not fitting:
            have = " and ".join(str(tensor.shape[1]) for tensor in tensors)
            raise CheckpointError(f"{path}: has vectors of {have} numbers, and a text encoder here {width}; it is for "
                                  "another kind of model")  # fmt: skip
        found[place] = fitting[place] if len(fitting) > place else fitting[0]
    return found
