from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError, UserError
from bayes_merger.scoring import Ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "ratings.jsonl"


def undone(ledger: Ledger, candidate: str | None = None) -> float | None:
    """The score of the rating that was taken back."""
    rating = ledger.undo(candidate)
    assert rating is not None
    return rating.score


def test_a_rating_is_found_again_by_another_process(path: Path) -> None:
    Ledger(path).record("c1", "portrait", 0, 7.5, seed=42, ms=1200, rater="me")
    other = Ledger(path)
    assert other.rating("c1", "portrait", 0) == 7.5
    assert other.rating("c1", "portrait", 1) is None
    assert other.rating("c2", "portrait", 0) is None
    (rating,) = other.ratings()
    assert (rating.kind, rating.seed, rating.ms, rating.rater) == ("score", 42, 1200, "me")


def test_a_ledger_that_does_not_exist_yet_is_empty(path: Path) -> None:
    assert Ledger(path).ratings() == []
    assert Ledger(path).rating("c1", "portrait", 0) is None
    assert not path.exists()


def test_a_reader_sees_what_others_append(path: Path) -> None:
    reader, writer = Ledger(path), Ledger(path)
    for number in range(3):
        writer.record("c1", "portrait", number, number)
        assert reader.rating("c1", "portrait", number) == number
    assert len(reader.ratings()) == 3


def test_a_later_rating_replaces_an_earlier_one_and_undo_brings_it_back(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 3)
    ledger.record("c1", "portrait", 0, 8)
    assert ledger.rating("c1", "portrait", 0) == 8
    assert undone(ledger) == 8
    assert ledger.rating("c1", "portrait", 0) == 3
    assert undone(ledger) == 3
    assert ledger.rating("c1", "portrait", 0) is None
    assert ledger.undo() is None


def test_undo_keeps_to_its_candidate(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 3)
    ledger.record("c2", "portrait", 0, 8)
    assert undone(ledger, "c1") == 3
    assert ledger.undo("c1") is None
    assert Ledger(path).rating("c2", "portrait", 0) == 8


def test_nothing_is_ever_removed_from_the_file(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 3)
    before = path.read_bytes()
    ledger.undo()
    assert path.read_bytes().startswith(before)
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["score", "undo"]


def test_a_void_picture_has_no_rating(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 3)
    ledger.void("c1", "portrait", 0)
    assert ledger.rating("c1", "portrait", 0) is None
    ledger.undo()
    assert ledger.rating("c1", "portrait", 0) == 3


def test_a_rating_of_another_seed_is_of_another_picture(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 3, seed=1)
    assert ledger.rating("c1", "portrait", 0, seed=2) is None
    assert ledger.rating("c1", "portrait", 0, seed=1) == 3
    assert ledger.rating("c1", "portrait", 0) == 3


@pytest.mark.parametrize("score", [-0.1, 10.1, float("nan"), float("inf")])
def test_only_0_to_10_is_written(path: Path, score: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 10"):
        Ledger(path).record("c1", "portrait", 0, score)
    assert not path.exists()


def test_a_line_torn_at_any_byte_costs_only_itself(path: Path) -> None:
    first = Ledger(path)
    first.record("c1", "portrait", 0, 7)
    whole = path.read_bytes()
    first.record("c1", "pörträt", 1, 4)
    torn = path.read_bytes()
    for length in range(len(whole), len(torn)):
        path.write_bytes(torn[:length])
        ledger = Ledger(path)
        assert ledger.rating("c1", "portrait", 0) == 7
        rated = ledger.rating("c1", "pörträt", 1)
        assert rated == (4 if length == len(torn) - 1 else None)  # all but its line end: it was given
        ledger.record("c1", "city", 2, 9)
        for reader in (ledger, Ledger(path)):
            assert reader.rating("c1", "portrait", 0) == 7
            assert reader.rating("c1", "pörträt", 1) == rated
            assert reader.rating("c1", "city", 2) == 9
            assert len(reader.ratings()) == (2 if rated is None else 3)


def test_a_torn_line_is_named_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Ledger(path).record("c1", "portrait", 0, 7)
    path.write_bytes(path.read_bytes() + b'{"id": "abc", "ki')
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 1, 8)
    ledger.ratings()
    ledger.ratings()
    assert caplog.text.count("line 2 is no rating") == 1


def test_lines_of_a_later_version_are_read_as_far_as_they_are_known(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"id":"a","kind":"score","candidate":"c1","payload":"p","index":0,"score":6,"mood":"good"}\n')
    assert Ledger(path).rating("c1", "p", 0) == 6


def test_every_rating_is_on_the_disk_before_record_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def noting(handle: int) -> None:
        synced.append(os.fstat(handle).st_size)
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 7)
    assert synced[0] == path.stat().st_size
    assert len(synced) == 2  # the file, and the folder that holds its name
    ledger.record("c1", "portrait", 1, 7)
    assert synced[2] == path.stat().st_size


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be saved"):
        Ledger(tmp_path / "file" / "ratings.jsonl").record("c1", "portrait", 0, 7)


def test_a_full_disk_tears_no_other_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    ledger.record("c1", "portrait", 0, 7)
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda handle, line: write(handle, line[:20]))
        with pytest.raises(UserError, match="disk is full"):
            ledger.record("c1", "portrait", 1, 8)
    ledger.record("c1", "portrait", 1, 9)
    assert [Ledger(path).rating("c1", "portrait", n) for n in (0, 1)] == [7, 9]


def test_several_processes_write_at_once(path: Path) -> None:
    code = (
        "import sys; from bayes_merger.scoring import Ledger; ledger = Ledger(sys.argv[1])\n"
        "for n in range(50): ledger.record(sys.argv[2], 'portrait', n, 5)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), f"c{n}"]) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert len(Ledger(path).ratings()) == 200
