"""Model files that somebody else made: damaged, malicious, or only strange."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError
from tests.hostile.fuzzing import LENGTHS, altered, fuzzing, mutated, one_clear_line

TENSORS = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.arange(12.0).view(3, 4),
    "model.diffusion_model.input_blocks.0.0.bias": torch.arange(3.0).half(),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(4),
}


def read_whole(path: Path) -> None:
    """All that the program ever does with a model file before it merges it."""
    with one_clear_line(), open_checkpoint(path) as model:
        assert model.kind.words
        for key, shape in model.shapes.items():
            assert tuple(model.tensor(key).shape) == shape
        model.scan()
        assert model.architecture


@pytest.mark.parametrize("examples", LENGTHS)
def test_damaged_safetensors_are_read_or_refused(examples: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "m.safetensors", save(TENSORS, {"format": "pt"})

    @fuzzing(examples)
    @given(mutated(whole))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        read_whole(path)

    check()


@pytest.mark.parametrize("examples", LENGTHS)
def test_altered_headers_are_read_or_refused(examples: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "m.safetensors", save(TENSORS, {"format": "pt"})
    length = struct.unpack("<Q", whole[:8])[0]
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    @fuzzing(examples)
    @given(altered(header), st.booleans())
    def check(changed: object, escaped: bool) -> None:
        text = json.dumps(changed, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
        path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
        read_whole(path)

    check()


@pytest.mark.parametrize("examples", LENGTHS)
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles_are_read_or_refused(examples: int, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": TENSORS, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()

    @fuzzing(examples)
    @given(mutated(whole))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        read_whole(path)

    check()


_HEAD = b"\x80\x02"  # of a pickle in protocol 2


def _zip(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", b"\0" * 4)
    return path


def _one_tensor(stored: int, size: int, stride: int) -> bytes:
    """The pickle of a dictionary with one tensor of fp32."""

    def value(of: object) -> bytes:
        return pickle.dumps(of, 2)[2:-1]

    storage = b"(" + value("storage") + b"ctorch\nFloatStorage\n" + value("0") + value("cpu") + value(stored) + b"tQ"
    arguments = b"(" + storage + value(0) + value((size,)) + value((stride,)) + b"\x89ccollections\nOrderedDict\n)Rt"
    return _HEAD + b"}" + value("k") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_a_pickle_made_by_hand_is_read(tmp_path: Path) -> None:
    with open_checkpoint(_zip(tmp_path / "m.ckpt", _one_tensor(1, 1, 1))) as model:
        assert model.tensor("k").tolist() == [0.0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_one_tensor(10**9, 10**9, 1), "a storage of 1000000000 numbers in a file of"),
        (_one_tensor(1, 10**9, 0), "tensor 'k' has more numbers than are stored"),
        (_one_tensor(1, 10**9, 1), "cannot be read"),
        (_HEAD + b"N0" * 600_000 + b"}.", "more than 1000000 operations"),
        (_HEAD + b"".join(b"Nr" + struct.pack("<I", i) + b"0" for i in range(310_000)) + b"}.", "300000 objects"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a", "not a readable checkpoint"),
    ],
    ids=["a large storage", "a spread tensor", "a tensor beyond its storage", "operations", "a large memo", "a string"],
)
def test_a_small_pickle_that_claims_much_is_refused_before_memory_is_taken(
    data: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(_zip(tmp_path / "m.ckpt", data))
