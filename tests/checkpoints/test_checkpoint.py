from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.pickles import imports_of
from bayes_merger.errors import CheckpointError
from bayes_merger.merging import SD1, open_checkpoint
from tests.merging.tiny_models import FIRST, TEXT, UNET, VAE, tensors_of, write_model


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 2] if shape is None else shape, "data_offsets": [begin, end]}


def refused(path: Path, words: str) -> None:
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    began = time.process_time()
    with pytest.raises(CheckpointError, match=words) as error:
        open_checkpoint(path)
    assert time.process_time() - began < 1
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert before == (sorted(path.parent.iterdir()) if path.parent.is_dir() else [])


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.safetensors", 1, metadata={"format": "pt", "who": "me"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.architecture is SD1
        assert checkpoint.metadata == {"format": "pt", "who": "me"}
        for key, tensor in tensors_of(1).items():
            assert torch.equal(checkpoint.tensor(key), tensor)
            assert checkpoint.shapes[key] == tuple(tensor.shape)
            assert checkpoint.dtypes[key] == "F16"
        assert len(checkpoint.sha256()) == 64
        checkpoint.scan()


def test_all_dtypes_and_empty_tensors_are_read(tmp_path: Path) -> None:
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8, torch.bool]
    given = {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in dtypes} | {"empty": torch.zeros(0, 3)}
    path = write_model(tmp_path / "m.safetensors", 1, change=given)
    with open_checkpoint(path) as checkpoint:
        for key, tensor in given.items():
            assert checkpoint.tensor(key).dtype == tensor.dtype
            assert torch.equal(checkpoint.tensor(key).double(), tensor.double())
            assert checkpoint.tensor(key).shape == tensor.shape
        checkpoint.scan()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nobody says what of a file is in memory")
def test_a_file_that_was_scanned_is_not_in_memory(tmp_path: Path) -> None:
    def mapped() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    path = write_model(tmp_path / "m.safetensors", 1, change={"large": torch.zeros(32 << 20)})
    with open_checkpoint(path) as checkpoint:
        before = mapped()
        checkpoint.scan()
        assert mapped() - before < 64 << 10  # KiB; the file has 128 MiB


def test_writing_into_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.safetensors", 1)
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        checkpoint.tensor(FIRST).zero_()
    assert path.read_bytes() == before


def test_a_tensor_outlives_its_file_and_a_closed_file_says_so(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path / "m.safetensors", 1))
    tensor = checkpoint.tensor(FIRST)
    checkpoint.close()
    checkpoint.close()
    assert torch.equal(tensor, tensors_of(1)[FIRST])
    with pytest.raises(CheckpointError, match="the file is closed"):
        checkpoint.tensor(FIRST)


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="this system maps files only")
def test_a_part_is_read_as_the_whole_is(tmp_path: Path) -> None:
    with open_checkpoint(write_model(tmp_path / "m.safetensors", 1)) as checkpoint:
        assert checkpoint.has_parts
        whole = checkpoint.tensor(TEXT).view(-1)
        for begin, end in ((0, 44), (0, 1), (7, 31), (43, 44), (20, 20)):
            out = torch.full((end - begin,), 7.0, dtype=torch.float16)
            checkpoint.read_part(TEXT, begin, out)
            assert torch.equal(out, whole[begin:end])
    with pytest.raises(CheckpointError, match="the file is closed"):
        checkpoint.read_part(TEXT, 0, torch.empty(1, dtype=torch.float16))


def test_names_of_the_first_months_are_brought_up_to_date(tmp_path: Path) -> None:
    old = TEXT.replace("text_model.", "")
    path = write_model(tmp_path / "old.safetensors", 1, change={TEXT: None, old: tensors_of(1)[TEXT]})
    with open_checkpoint(path) as checkpoint:
        assert torch.equal(checkpoint.tensor(TEXT), tensors_of(1)[TEXT])
        assert old not in checkpoint.shapes


@pytest.mark.parametrize(("number", "words"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_broken_number_is_found_and_its_tensor_named(tmp_path: Path, number: float, words: str) -> None:
    tensor = tensors_of(1)[TEXT]
    tensor[3, 2] = number
    path = write_model(tmp_path / "m.safetensors", 1, change={TEXT: tensor})
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=f"'{TEXT}' holds {words}"):
        checkpoint.scan()


def test_a_missing_file_is_told_with_its_neighbours(tmp_path: Path) -> None:
    write_model(tmp_path / "dreamshaper_8.safetensors", 1)
    refused(tmp_path / "dreamshaper8.safetensors", "no such file; there is dreamshaper_8.safetensors$")
    refused(tmp_path / "zzz", "there is dreamshaper_8.safetensors$")
    refused(tmp_path / "nowhere" / "m.safetensors", "there is no folder")


def test_an_absurd_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"xxx\.\.\.xxx.*: cannot be opened .File name too long."):
        open_checkpoint(tmp_path / ("x" * 300))


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    refused(tmp_path / "models", "a folder, not a file.*there is no checkpoint in that folder")
    write_model(tmp_path / "models" / "m.safetensors", 1)
    refused(tmp_path / "models", "give a checkpoint in it; there is m.safetensors")
    (tmp_path / "models" / "model_index.json").write_text("{}")
    refused(tmp_path / "models", "a diffusers folder without weights")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\x01\x02", "2 bytes are too few"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "a picture"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "a web page"),
        (b"Entry not found", r"a text \('Entry not found'\); download the model again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x08\x07\x12\x07pytorch" * 9, "not a checkpoint"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path, words)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry(0, 8)}, b"x" * 4, "truncated: tensor 'a' ends at byte .* and the file has"),
        ({"a": entry(0, 8)}, b"x" * 12, "4 bytes at its end belong to no tensor"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12, "'b' overlaps the one before it"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, b"x" * 8, "'b' overlaps"),
        ({"a": entry(0, 8), "b": entry(10, 12)}, b"x" * 12, "'b' leaves a gap"),
        ({"a": entry(0, 8, dtype="F17")}, b"x" * 8, "'a' has dtype 'F17'; did you mean F16"),
        ({"a": entry(0, 8) | {"dtype": None}}, b"x" * 8, "'a' has dtype 'None'"),
        ({"a": entry(0, 8, [3])}, b"x" * 8, "'a' needs 6 bytes and has 8"),
        ({"a": entry(0, 8, [-4])}, b"x" * 8, "no valid shape"),
        ({"a": entry(0, 8, [4.0])}, b"x" * 8, "no valid shape"),
        ({"a": entry(0, 8, [True, 4])}, b"x" * 8, "no valid shape"),
        ({"a": entry(8, 0, [])}, b"x" * 8, "needs 2 bytes and has -8"),
        ({"a": entry(0, 8, [2**62, 2**62])}, b"x" * 8, "needs .* bytes"),
        ({"a": {"dtype": "F16"}}, b"", "not described by"),
        ({"a": 1}, b"", "not described by"),
        ({}, b"", "it holds no tensors"),
        ({"__metadata__": {"a": 1}, "a": entry(0, 8)}, b"x" * 8, "metadata is not an object of strings"),
        (b"[1]", b"", "not a checkpoint"),
        (b"{1}", b"", "header is not JSON"),
        (b'{"\xff": 1}', b"", "header is not JSON"),
        (b'{"a":' * 60000, b"", "header is not JSON"),
        (b'{"a": 1, "a": 2}', b"", "'a' appears twice"),
        ({"a\x1b[31m\n": 1}, b"", r"tensor 'a\?\[31m\?' is not described"),
    ],
)
def test_a_damaged_or_hostile_header_is_refused(tmp_path: Path, header: Any, data: bytes, words: str) -> None:
    refused(raw(tmp_path / "m.safetensors", header, data), words)


@pytest.mark.parametrize(
    ("length", "words"),
    [(2**63, "claims a header of"), (200_000_000, "claims a header of"), (5000, "truncated: the header needs 5008")],
)
def test_an_absurd_header_length_is_refused(tmp_path: Path, length: int, words: str) -> None:
    refused(raw(tmp_path / "m.safetensors", {"a": entry(0, 8)}, length=length), words)


def test_a_truncated_download_is_refused_at_any_length(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.safetensors", 1).read_bytes()
    for share in (0.001, 0.1, 0.5, 0.999):
        path = tmp_path / "part.safetensors"
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "truncated|too few")


def test_what_is_no_model_is_named_when_its_architecture_is_asked_for(tmp_path: Path) -> None:
    path = raw(tmp_path / "m.safetensors", {"lora_unet_x.lora_down.weight": entry(0, 8)}, b"x" * 8)
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(CheckpointError, match=r"m.safetensors: this is a LoRA; give"),
    ):
        _ = checkpoint.architecture


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.system, ("touch /nowhere/pwned",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "plain"])
def test_a_pickled_checkpoint_of_tensors_is_read(tmp_path: Path, zipped: bool, wrapped: bool) -> None:
    path = tmp_path / "m.ckpt"
    tensors: Any = OrderedDict(tensors_of(1))
    tensors[FIRST] = tensors[FIRST].transpose(0, 1).contiguous().transpose(0, 1)
    content = {"state_dict": tensors, "global_step": 840000} if wrapped else tensors
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.architecture is SD1
        assert checkpoint.dtypes[FIRST] == "F16"
        assert checkpoint.tensor(FIRST).is_contiguous()
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in tensors_of(1).items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_foreign_objects_is_refused_and_not_run(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path = tmp_path / "m.ckpt"
    content = {"state_dict": tensors_of(1), "callbacks": Evil()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    refused(path, r"carries foreign objects \((posix|nt).system\): convert it to safetensors")


def test_a_pickle_that_is_not_from_torch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(Evil(), protocol=protocol))
        refused(path, "carries foreign objects .*system")
        path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
        refused(path, "not a readable checkpoint")


def test_a_name_hidden_behind_the_memo_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    hidden = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x02ls\x85R."
    path.write_bytes(hidden)
    with pytest.raises(ValueError, match="pickle exhausted"):
        list(imports_of(path))
    refused(path, r"carries foreign objects \(posix.system\)")


@pytest.mark.parametrize(
    ("names", "words"),
    [(["readme.txt"], "0 data.pkl"), (["x/data.pkl", "y/data.pkl"], "2 data.pkl"), (["x/data.pkl"], "not a readable")],
)
def test_other_zip_files_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"not a pickle")
    refused(path, words)


def test_a_zip_bomb_and_a_truncated_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 70_000_000)
    refused(path, "data.pkl of 70000000 bytes")
    torch.save(tensors_of(1), path)
    path.write_bytes(path.read_bytes()[:2000])
    refused(path, "not a readable checkpoint")


def test_a_pickle_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"a": 1}, path)
    refused(path, "it holds no tensors")


def test_bad_files_are_refused_without_importing_torch(tmp_path: Path) -> None:
    torch.save({"x": Evil()}, tmp_path / "evil.ckpt")
    raw(tmp_path / "bad.safetensors", {"a": entry(0, 8)}, b"x")
    write_model(tmp_path / "good.safetensors", 1)
    program = """
import sys
from pathlib import Path
from bayes_merger.errors import CheckpointError
from bayes_merger.merging import METHODS, method_spec, open_checkpoint, MergeRecipe, save_merge, LiveMerge
from bayes_merger.merging.engine.merge import plan
folder = Path(sys.argv[1])
for name in ("evil.ckpt", "bad.safetensors", "missing.ckpt"):
    try:
        open_checkpoint(folder / name)
    except CheckpointError as error:
        print(error)
print(open_checkpoint(folder / "good.safetensors").architecture.name, len(METHODS) > 8, method_spec("add").name)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 5
    assert done.stdout.endswith("sd1 True add_difference\nFalse\n")


def test_a_middle_block_of_another_kind_is_not_sd1(tmp_path: Path) -> None:
    lacking = {UNET + "middle_block.0.in_layers.2.weight": None}
    path = write_model(tmp_path / "m.safetensors", 1, change=lacking)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="parts of its U-Net missing"):
        _ = checkpoint.architecture


@pytest.mark.parametrize("suffix", ["safetensors", "zip", "legacy"])
def test_a_file_with_any_byte_changed_is_read_or_refused_in_words(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "m.ckpt"
    if suffix == "safetensors":
        write_model(path, 1)
    else:
        torch.save(tensors_of(1), path, _use_new_zipfile_serialization=suffix == "zip")
    whole = path.read_bytes()
    random = torch.Generator().manual_seed(1)
    end = min(len(whole), 6000)  # the part that is not numbers
    for _ in range(300):
        place, value = (int(torch.randint(0, high, (1,), generator=random)) for high in (end, 256))
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        with contextlib.suppress(CheckpointError), open_checkpoint(path) as checkpoint:
            for key in checkpoint.shapes:
                checkpoint.tensor(key)


def test_a_pickle_with_the_wrong_name_is_read_all_the_same(tmp_path: Path) -> None:
    torch.save(tensors_of(1), tmp_path / "m.safetensors")
    write_model(tmp_path / "m.ckpt", 1)
    with open_checkpoint(tmp_path / "m.safetensors") as one, open_checkpoint(tmp_path / "m.ckpt") as two:
        assert torch.equal(one.tensor(FIRST), two.tensor(FIRST))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files with holes, and how Linux counts memory")
def test_a_file_larger_than_memory_is_opened(tmp_path: Path) -> None:
    count = 2**36
    about = {"model": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}
    header = json.dumps(about).encode()
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + 2 * count)
        except OSError:
            pytest.skip("no file of 128 GB with a hole in it can be made here")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensor("model")[-1] == 0


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    header = {"x": entry(0, 2)}
    header["__metadata__"] = {"fill": "-" * (0x0280 - len(json.dumps(header | {"__metadata__": {"fill": ""}})))}
    path = raw(tmp_path / "m.safetensors", header, b"\x00<")
    assert path.read_bytes().startswith(b"\x80\x02")
    assert open_checkpoint(path).tensor("x").tolist() == [1.0]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda table: {"model": table},
        lambda table: {"module": table, "epoch": 3},
        lambda table: {"state_dict": {"model": table}, "global_step": torch.tensor(7)},
        lambda table: {"model": {"module": {f"module.{key}": tensor for key, tensor in table.items()}}},
        lambda table: {"state_dict": table | {"state_dict": dict(list(table.items())[:3])}},
        lambda table: {f"module._orig_mod.{key}": tensor for key, tensor in table.items()},
        lambda table: {"ema": table, "step": torch.tensor(7)},
        lambda table: {"ema": {key: tensor + 1 for key, tensor in table.items()}, "model": table},
        lambda table: {key.replace(UNET, f"{UNET}_orig_mod."): tensor for key, tensor in table.items()},
        lambda table: {key.replace(".0.", ".0._checkpoint_wrapped_module.", 1): t for key, t in table.items()},
    ],
)
def test_a_model_inside_of_what_trainers_save_is_found(tmp_path: Path, wrapped: Callable[[Any], Any]) -> None:
    tensors = tensors_of(1)
    torch.save(wrapped(tensors), tmp_path / "m.ckpt")
    with open_checkpoint(tmp_path / "m.ckpt") as checkpoint:
        assert checkpoint.shapes.keys() == tensors.keys()
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in tensors.items())


def test_a_safetensors_file_of_parallel_training_is_read(tmp_path: Path) -> None:
    save_file({f"module.{key}": tensor for key, tensor in tensors_of(1).items()}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.architecture is SD1


@pytest.mark.parametrize("prefix", ["", "model.", "diffusion_model.", UNET])
def test_a_mark_counts_behind_any_prefix(prefix: str, tmp_path: Path) -> None:
    save_file(tensors_of(1) | {f"{prefix}v_pred": torch.zeros(0)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.prediction == "v"
        assert checkpoint.architecture is SD1


def test_a_wrapper_that_tells_two_tensors_apart_stays(tmp_path: Path) -> None:
    save_file({"module.x": torch.zeros(1), "x": torch.ones(1)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.shapes.keys() == {"module.x", "x"}


def test_a_pickle_in_fp8_is_read(tmp_path: Path) -> None:
    tensors = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in tensors_of(1).items()}
    torch.save({"state_dict": tensors, "at": datetime(2026, 1, 2, tzinfo=UTC), "best": {"x": 1j}}, tmp_path / "m.ckpt")
    with open_checkpoint(tmp_path / "m.ckpt") as checkpoint:
        assert checkpoint.dtypes[FIRST] == "F8_E4M3"
        assert torch.equal(checkpoint.tensor(FIRST).float(), tensors[FIRST].float())


def test_metadata_may_be_null(tmp_path: Path) -> None:
    path = raw(tmp_path / "m.safetensors", {"__metadata__": None, "x": entry(0, 2)}, bytes(2))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {}


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e8m0fnu])
def test_a_tensor_of_a_rare_dtype_does_not_refuse_the_others(tmp_path: Path, dtype: torch.dtype) -> None:
    rare = torch.zeros(3, dtype=torch.uint8).to(dtype) if dtype != torch.float8_e8m0fnu else torch.ones(3).to(dtype)
    path = write_model(tmp_path / "m.safetensors", 1, change={"counter": rare})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensor("counter").dtype == dtype
        assert checkpoint.architecture is SD1


class Callback:
    """What a trainer has kept."""

    folder: str


def test_what_trainers_leave_in_a_pickle_is_not_imported_and_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    left = {"loss": np.float64(1.5), "random": np.arange(4), "folder": Path("logs"), "seen": {1, 2}}
    torch.save({"state_dict": tensors_of(1), "epoch": 3, **left}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.architecture is SD1
    table: dict[str, Any] = defaultdict(dict, tensors_of(1))
    kinds = {"kinds": [int, str, float, bool, list, dict, tuple, bytes]}
    torch.save({"state_dict": table, **kinds}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.architecture is SD1
    callback = Callback()
    callback.folder = "logs"
    torch.save({"state_dict": tensors_of(1), "callbacks": callback}, path, _use_new_zipfile_serialization=False)
    name = b"lightning.pytorch.callbacks.model_checkpoint\nModelCheckpoint"
    path.write_bytes(path.read_bytes().replace(b"tests.checkpoints.test_checkpoint\nCallback", name))
    assert name.replace(b"\n", b".").decode() in set(imports_of(path))
    with open_checkpoint(path) as checkpoint:
        assert torch.equal(checkpoint.tensor(FIRST), tensors_of(1)[FIRST])
    assert "lightning" not in sys.modules
    path.write_bytes(
        path.read_bytes().replace(b"callbacks.model_checkpoint\nModel", b"callbacks.model_checkpoint\nOther")
    )
    refused(path, "carries foreign objects .*OtherCheckpoint")


class Attributes(dict[str, object]):
    """A table of settings, as Lightning pickles it."""


def test_tables_that_trainers_leave_in_a_pickle_are_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    left: dict[str, object] = {"optimizer": defaultdict(dict, {0: {"step": 3}}), "settings": Attributes(rate=0.1)}
    torch.save({**left, "state_dict": tensors_of(1)}, path, _use_new_zipfile_serialization=False)
    name = b"pytorch_lightning.utilities.parsing\nAttributeDict"
    path.write_bytes(path.read_bytes().replace(b"tests.checkpoints.test_checkpoint\nAttributes", name))
    assert {"collections.defaultdict", name.replace(b"\n", b".").decode()} <= set(imports_of(path))
    with open_checkpoint(path) as checkpoint:
        assert torch.equal(checkpoint.tensor(FIRST), tensors_of(1)[FIRST])
    assert "pytorch_lightning" not in sys.modules


def test_tensors_with_attributes_of_trainers_are_read(tmp_path: Path) -> None:
    tensors = tensors_of(1)
    tensors[FIRST] = torch.nn.Parameter(tensors[FIRST])
    for key in (FIRST, VAE):
        vars(tensors[key])["ds_id"] = 3  # DeepSpeed's
    for zipped in (True, False):
        torch.save(tensors, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
        assert "torch._utils._rebuild_parameter_with_state" in set(imports_of(tmp_path / "m.ckpt"))
        with open_checkpoint(tmp_path / "m.ckpt") as checkpoint:
            assert checkpoint.architecture is SD1
            assert torch.equal(checkpoint.tensor(FIRST), tensors_of(1)[FIRST])
            assert torch.equal(checkpoint.tensor(VAE), tensors_of(1)[VAE])


def test_the_parameters_of_a_container_are_found(tmp_path: Path) -> None:
    words = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": words}, tmp_path / "e.pt")
    with open_checkpoint(tmp_path / "e.pt") as checkpoint:
        assert checkpoint.tensor("*").tolist() == [[1.0, 2.0]]


def test_a_number_that_is_repeated_is_read_and_a_bomb_is_not(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"x": torch.tensor([0.25]).expand(3, 2), "y": torch.zeros(9)}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensor("x").tolist() == [[0.25, 0.25]] * 3
    torch.save({"x": torch.tensor([0.25]).expand(3, 2000)}, path)
    refused(path, "'x' has more numbers than are stored")


def test_a_torchscript_program_is_called_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in ("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"):
            archive.writestr(name, b"x")
    refused(tmp_path / "m.pt", "a program for TorchScript")


def test_such_pickles_are_opened_by_several_threads_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "folders": [Path("logs")] * 3}, path)

    def shapes(_: int) -> dict[str, tuple[int, ...]]:
        with open_checkpoint(path) as checkpoint:
            return dict(checkpoint.shapes)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(shapes, range(60))) == [{"w": (2,)}] * 60


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b'{"error":"Unauthorized","message":"log in"}', "a message of a web site"),
        (bytes(4096), "nothing but zeros, an unfinished download"),
        (b"Rar!\x1a\x07\x00 and more", "an archive; unpack it"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "an archive; unpack it"),
    ],
)
def test_what_downloads_leave_is_called_by_its_name(start: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(start)
    refused(tmp_path / "m.safetensors", words)


def test_an_archive_of_a_model_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.safetensors", "w") as archive:
        archive.writestr("models/m.safetensors", b"x")
    refused(tmp_path / "m.safetensors", "an archive; unpack it, and give the model in it")


@pytest.mark.parametrize("length", [0x7B, 0x8B1F])
def test_a_header_whose_length_looks_like_something_else_is_read(length: int, tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"note":"x"}}'.ljust(length)
    (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + text + bytes(4))
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.shapes == {"w": (1,)}


def test_a_link_that_leads_nowhere_names_where(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").symlink_to("gone.safetensors")
    refused(tmp_path / "m.safetensors", "a link to gone.safetensors, which is not there")


def test_a_number_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    refused(tmp_path / "m.safetensors", "quantised to F4, which is not read; give the file in fp16")


def test_a_whole_model_behind_another_prefix_is_that_model(tmp_path: Path) -> None:
    save_file({f"model.{key}": tensor for key, tensor in tensors_of(1).items()}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.architecture is SD1
        assert FIRST in checkpoint.shapes
