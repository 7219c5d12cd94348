from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bayes_merger.checkpoints.hashes import sha256_of

FALSE = 64 * "f"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashes are remembered."""
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a model")
    return path


def note_of(hashes: Path) -> Path:
    (note,) = hashes.iterdir()
    return note


def falsified(hashes: Path) -> None:
    """A hash that only a reader of the note can return."""
    note = note_of(hashes)
    note.write_text(note.read_text().replace(sha256(b"a model"), FALSE))


def test_a_hash_is_remembered_for_the_file_it_was_made_of(hashes: Path, model: Path) -> None:
    assert sha256_of(model, settled=0) == sha256(b"a model")
    falsified(hashes)
    assert sha256_of(model) == FALSE
    model.rename(model.with_name("renamed"))  # which changes the time of its entry, and so costs one more reading
    assert sha256_of(model.with_name("renamed"), settled=0) == sha256(b"a model")


@pytest.mark.parametrize("content", [b"A MODEL", b"a larger model"])
def test_a_file_that_changed_is_hashed_again(hashes: Path, model: Path, content: bytes) -> None:
    sha256_of(model, settled=0)
    falsified(hashes)
    before = model.stat()
    model.write_bytes(content)
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it had not been touched
    assert sha256_of(model) == sha256(content)


def test_a_file_put_in_the_place_of_another_is_hashed_again(hashes: Path, model: Path) -> None:
    sha256_of(model, settled=0)
    other = model.with_name("other")
    other.write_bytes(b"another")
    other.replace(model)
    assert sha256_of(model) == sha256(b"another")


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(hashes: Path, model: Path) -> None:
    assert sha256_of(model, settled=3600) == sha256(b"a model")
    assert not hashes.exists()


@pytest.mark.parametrize("broken", [b"", b"\xff\xfe", b"1 2 3 " + 64 * b"f" + b"\n", 64 * b"f", 300 * b"7", None])
def test_a_note_that_is_broken_is_ignored_and_written_anew(hashes: Path, model: Path, broken: bytes | None) -> None:
    sha256_of(model, settled=0)
    note = note_of(hashes)
    whole = note.read_bytes()
    note.write_bytes(whole.replace(b" ", b"\n") if broken is None else broken)
    assert sha256_of(model, settled=0) == sha256(b"a model")
    assert note.read_bytes() == whole


def test_a_pipe_or_a_folder_in_the_place_of_a_note_stops_nobody(hashes: Path, model: Path) -> None:
    sha256_of(model, settled=0)
    note = note_of(hashes)
    note.unlink()
    os.mkfifo(note)
    assert sha256_of(model) == sha256(b"a model")
    note.unlink()
    note.mkdir()
    assert sha256_of(model, settled=0) == sha256(b"a model")


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "file"))
    assert sha256_of(model, settled=0) == sha256(b"a model")
