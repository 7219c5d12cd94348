from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.atomic import PAUSES, put_in_place


class Windows:
    """Renames a file only once nobody reads the old one any more."""

    def __init__(self, readers: int) -> None:
        self.readers, self.tries = readers, 0

    def __call__(self, new: Path, path: Path) -> None:
        self.tries += 1
        if self.tries <= self.readers:
            raise PermissionError(13, "the file is used by another process")
        new.replace(path)


def test_a_file_that_somebody_reads_is_replaced_as_soon_as_they_are_done(tmp_path: Path) -> None:
    new, path = tmp_path / "new", tmp_path / "status.json"
    new.write_text("new")
    path.write_text("old")
    system = Windows(readers=2)
    put_in_place(new, path, system)
    assert path.read_text() == "new"
    assert system.tries == 3


def test_who_never_lets_go_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    system = Windows(readers=100)
    with pytest.raises(PermissionError):
        put_in_place(tmp_path / "new", tmp_path / "old", system)
    assert system.tries == len(PAUSES) + 1 == 6
