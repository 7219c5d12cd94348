"""A model in several files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError
from tests.merging.tiny_models import tensors_of, write_model

FIRST, SECOND, THIRD = (f"m-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in three files, with the index of what is in which; and the same as one."""
    tensors = tensors_of(1)
    for number, name in enumerate((FIRST, SECOND, THIRD)):
        part = dict(list(tensors.items())[number::3])
        save_file(part, tmp_path / name, metadata={"modelspec.title": "Mine"} if name == SECOND else None)
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {}}')
    save_file(tensors, tmp_path / "whole.safetensors")
    write_model(tmp_path / "b.safetensors", 2)
    return tmp_path


@pytest.mark.parametrize("name", [FIRST, THIRD, "m.safetensors.index.json"])
def test_any_of_them_stands_for_all(name: str, folder: Path) -> None:
    with open_checkpoint(folder / name) as model:
        assert model.architecture.name == "sd1"
        assert model.metadata == {"modelspec.title": "Mine"}
        assert [file.name for file in model.files] == [FIRST, SECOND, THIRD]
        assert len(model.sha256()) == 64
        for key, tensor in tensors_of(1).items():
            assert torch.equal(model.tensor(key), tensor)
        key = "model.diffusion_model.out.2.weight"
        part = torch.empty(5, dtype=torch.float16)
        model.read_part(key, 3, part)
        assert torch.equal(part, tensors_of(1)[key].flatten()[3:8])


def test_it_is_merged_as_one_and_made_again_from_its_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in (SECOND, "whole.safetensors"):
        pair = [f"model_a={name}", "model_b=b.safetensors", "alpha=0.3"]
        assert main(["merge", *pair, "--out", f"of-{name[0]}.safetensors"]) == 0
    made = load_file("of-w.safetensors")
    assert all(torch.equal(tensor, made[key]) for key, tensor in load_file("of-m.safetensors").items())
    assert main(["merge", "of-m.safetensors", "--out", "again.safetensors"]) == 0
    assert (folder / "again.safetensors").read_bytes() == (folder / "of-m.safetensors").read_bytes()


def test_it_is_refused_when_one_changes_or_is_not_there(folder: Path) -> None:
    with open_checkpoint(folder / FIRST) as model:
        (folder / THIRD).write_bytes((folder / THIRD).read_bytes() + b" ")
        with pytest.raises(CheckpointError, match=f"{THIRD}: has changed since it was opened"):
            model.check_unchanged()
    (folder / THIRD).unlink()
    with pytest.raises(CheckpointError, match=f"one of 3 files of a model, and {THIRD} is not beside it; put it there"):
        open_checkpoint(folder / SECOND)
    for name in (FIRST, SECOND):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="lists the files of a model, none of which is beside it"):
        open_checkpoint(folder / "m.safetensors.index.json")


def test_a_tensor_in_two_of_them_is_refused(folder: Path) -> None:
    save_file(load_file(folder / THIRD) | {"betas": torch.ones(2)}, folder / THIRD)
    save_file(load_file(folder / FIRST) | {"betas": torch.ones(2)}, folder / FIRST)
    with pytest.raises(CheckpointError, match=f"{THIRD}: has 'betas', as {FIRST} has"):
        open_checkpoint(folder / SECOND)


def test_what_is_called_so_and_is_whole_is_read(tmp_path: Path) -> None:
    for name in ("m-00001-of-00001.safetensors", "photo-00001-of-00003-final.safetensors"):
        write_model(tmp_path / name, 1)
        open_checkpoint(tmp_path / name).close()


def test_an_index_of_one_file_stands_for_it(tmp_path: Path) -> None:
    write_model(tmp_path / "m-00001-of-00001.safetensors", 1)
    (tmp_path / "m.safetensors.index.json").write_text("{}")
    with open_checkpoint(tmp_path / "m.safetensors.index.json") as model:
        assert [file.name for file in model.files] == ["m-00001-of-00001.safetensors"]


def test_a_part_of_too_many_is_no_model(tmp_path: Path) -> None:
    write_model(tmp_path / "m-00001-of-99999.safetensors", 1)
    with pytest.raises(CheckpointError, match="says that it is one of 99999 files of a model; at most 1000 are read"):
        open_checkpoint(tmp_path / "m-00001-of-99999.safetensors")


def test_an_index_beside_the_files_of_two_models_takes_neither_in_silence(folder: Path) -> None:
    index = folder / "m.safetensors.index.json"
    (folder / "m-00001-of-00001.bin").write_bytes(b"")
    with open_checkpoint(index) as model:  # those of its own kind are meant
        assert [file.name for file in model.files] == [FIRST, SECOND, THIRD]
    write_model(folder / "m-00001-of-00002.safetensors", 2)
    words = f"m-00001-of-00002.safetensors and {FIRST}; give one of these instead"
    with pytest.raises(CheckpointError, match=f"beside it are the files of several models, {words}"):
        open_checkpoint(index)
