from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.writing import check_out
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging import TensorEntry, open_checkpoint, write_checkpoint
from tests.checkpoints import slow_writer
from tests.processes import Process


def entries(**tensors: torch.Tensor) -> list[TensorEntry]:
    names = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
    return [TensorEntry(key, tuple(t.shape), names[t.dtype], t) for key, t in tensors.items()]


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_is_the_one_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 4).half(), "a": torch.randn(5).half(), "ids": torch.arange(4), "scalar": torch.tensor(2.0),
        "t": torch.randn(3, 4).half().T, "none": torch.zeros(0, 2), "bf": torch.randn(3).bfloat16(),
    }  # fmt: skip
    write_checkpoint(tmp_path / "ours.safetensors", entries(**tensors), {"format": "pt", "ü": "ß"})
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "theirs.safetensors", {"format": "pt"})
    ours, theirs = load_file(tmp_path / "ours.safetensors"), load_file(tmp_path / "theirs.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with open_checkpoint(tmp_path / "ours.safetensors") as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "ü": "ß"}


def test_the_order_of_the_tensors_does_not_matter(tmp_path: Path) -> None:
    given = entries(a=torch.ones(2), b=torch.zeros(3).half(), c=torch.ones(1))
    write_checkpoint(tmp_path / "1.safetensors", given, {"format": "pt"})
    write_checkpoint(tmp_path / "2.safetensors", given[::-1], {"format": "pt"})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    given = entries(a=torch.ones(2), b=torch.ones(3))
    write_checkpoint(tmp_path / "m.safetensors", given, progress=lambda done, total: told.append((done, total)))
    assert told == [(8, 20), (20, 20)]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.tensor([1, float("nan")]), "'x' would hold NaN"),
        (torch.tensor([1, -float("inf")]), "'x' would hold infinity"),
        (torch.tensor([1e5, 1]).half(), "'x' would hold infinity"),
    ],
)
def test_a_broken_number_is_never_written(tmp_path: Path, tensor: torch.Tensor, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError, match=words):
        write_checkpoint(path, entries(a=torch.ones(4), x=tensor))
    assert path.read_bytes() == b"old"
    assert only(tmp_path) == ["m.safetensors"]


def test_a_tensor_other_than_announced_is_refused(tmp_path: Path) -> None:
    for wrong in (torch.ones(3), torch.ones(2).half()):
        with pytest.raises(CheckpointError, match="as announced"):
            write_checkpoint(tmp_path / "m.safetensors", [TensorEntry("x", (2,), "F32", wrong)])
    with pytest.raises(CheckpointError, match="'x' is given twice"):
        write_checkpoint(tmp_path / "m.safetensors", 2 * entries(x=torch.ones(1)))
    assert only(tmp_path) == []


def never() -> torch.Tensor:
    raise AssertionError("nothing may be computed")


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dotted"])
def test_an_input_is_never_written_over(tmp_path: Path, link: str) -> None:
    model = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(2)}, model)
    before = model.read_bytes()
    out = {"same": model, "dotted": tmp_path / "x" / ".." / model.name}.get(link, tmp_path / "out.safetensors")
    (tmp_path / "x").mkdir()
    if link == "symlink":
        out.symlink_to(model)
    elif link == "hardlink":
        os.link(model, out)
    with (
        open_checkpoint(model) as opened,
        pytest.raises(CheckpointError, match="is read for what would be written"),
    ):
        write_checkpoint(out, [TensorEntry("x", (2,), "F32", never)], inputs=[opened])
    assert model.read_bytes() == before


@pytest.mark.parametrize("how", ["replaced", "overwritten", "cut short", "deleted"])
def test_an_input_that_changes_while_it_is_read_leaves_no_file(tmp_path: Path, how: str) -> None:
    model, other, out = (tmp_path / f"{name}.safetensors" for name in ("model", "other", "out"))
    save_file({"x": torch.ones(2)}, model)
    save_file({"x": torch.zeros(2)}, other)
    os.utime(model, (1e9, 1e9))  # the clock of file systems ticks a few hundred times a second

    def change() -> torch.Tensor:
        if how == "replaced":
            other.replace(model)
        elif how == "overwritten":
            model.write_bytes(other.read_bytes())
        elif how == "cut short":
            os.truncate(model, model.stat().st_size - 4)
        else:
            model.unlink()
        return torch.ones(2)

    words = "is gone" if how == "deleted" else "has changed since it was opened"
    with (
        open_checkpoint(model) as opened,
        pytest.raises(CheckpointError, match=rf"model\.safetensors: {words}; put back"),
    ):
        write_checkpoint(out, [TensorEntry("x", (2,), "F32", change)], inputs=[opened])
    assert not out.exists()


def test_a_tensor_that_was_cut_off_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(1 << 16)}, model)
    with open_checkpoint(model) as opened:
        os.truncate(model, 4096)
        with pytest.raises(CheckpointError, match="was cut short while it was open"):
            opened.tensor("x")


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    def refused(path: Path, words: str, **options: Any) -> None:
        with pytest.raises(CheckpointError, match=words):
            write_checkpoint(path, [TensorEntry("x", (2,), "F32", never)], **options)

    refused(tmp_path, "a folder; give the name of a file in it")
    refused(tmp_path / "nowhere" / "m.safetensors", "there is no folder")
    (tmp_path / "there.safetensors").write_bytes(b"")
    refused(tmp_path / "there.safetensors", "exists already", replace=False)
    refused(tmp_path / ("x" * 300), "cannot be written|File name too long")


def test_a_full_disk_is_noticed_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs [\d,]+ MB and its disk has [\d,]+ MB free; free up space"):
        write_checkpoint(tmp_path / "m.safetensors", [TensorEntry("x", (2**60,), "F32", never)])
    assert only(tmp_path) == []


def waiting_writer(out: Path) -> Process:
    """A process that writes a file and before each tensor prints a line and waits for one."""
    return Process(slow_writer.write, out, stdin=subprocess.PIPE)


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"old")
    with Process(slow_writer.write, out, 3_000_000) as writer:
        said, _ = writer.communicate()
    assert "cannot be written (File too large); make room there" in said
    assert out.read_bytes() == b"old"
    assert only(tmp_path) == ["m.safetensors"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("tensors", [10, 1, 20])
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path, tensors: int) -> None:
    out = tmp_path / "m.safetensors"
    write_checkpoint(out, entries(old=torch.ones(3)))
    before = out.read_bytes()
    with waiting_writer(out) as writer:
        for number in range(tensors):
            assert writer.stdout.readline() == "writing\n"
            if number < tensors - 1:
                writer.stdin.write("\n")
                writer.stdin.flush()
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert out.read_bytes() == before
    assert all(name == out.name or name.startswith(".") for name in only(tmp_path))
    write_checkpoint(out, entries(new=torch.ones(3)))
    assert only(tmp_path) == [out.name]  # what the killed one left is swept away


@pytest.mark.skipif(os.name != "posix", reason="names are as long as the file system allows")
def test_a_name_as_long_as_the_disk_allows_is_written_and_swept(tmp_path: Path) -> None:
    out = tmp_path / ("n" * 243 + ".safetensors")
    with waiting_writer(out) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.kill()
    assert len(only(tmp_path)) == 1
    write_checkpoint(out, entries(new=torch.ones(3)))
    assert only(tmp_path) == [out.name]
    assert set(load_file(out)) == {"new"}


def test_the_leftovers_of_a_writer_that_lives_are_not_swept_away(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    with waiting_writer(out) as writer:
        writer.stdout.readline()
        write_checkpoint(out, entries(ours=torch.ones(3)))
        assert set(load_file(out)) == {"ours"}
        writer.communicate()
    assert writer.returncode == 0
    assert len(load_file(out)) == 20
    assert only(tmp_path) == [out.name]


def test_an_interrupted_writer_tidies_up(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    with waiting_writer(out) as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGINT)
    assert writer.returncode != 0
    assert only(tmp_path) == []


def test_a_folder_in_which_nobody_may_write_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o555)
    shut = Path("/proc/sys") if os.access(tmp_path / "shut", os.W_OK) else tmp_path / "shut"  # root may write there
    made: list[str] = []

    def tensor() -> torch.Tensor:
        made.append("x")
        return torch.zeros(1)

    with pytest.raises(CheckpointError, match=f"x.sft: nothing can be written in {shut}; give another folder"):
        write_checkpoint(shut / "x.sft", [("x", (1,), "F32", tensor)])
    assert not made
    with pytest.raises(ConfigError, match=f"^--out: nothing can be written in the folder {shut}; give another"):
        check_out(shut / "x.sft", overwrite=False)
