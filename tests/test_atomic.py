from __future__ import annotations

import os
from pathlib import Path

import pytest

from bayes_merger.atomic import PAUSES, folder_atomically, put_in_place, sweep_folders, write_atomically


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


@pytest.mark.skipif(os.name != "posix", reason="names are as long as the file system allows")
@pytest.mark.parametrize("name", ["n" * 255, "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 127, "n" * 241])
def test_a_name_as_long_as_the_disk_allows_is_written(name: str, tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_atomically(tmp_path / name, text)
    assert (tmp_path / name).read_text() == "new"
    (tmp_path / name).unlink()
    for text in ("old", "new"):
        with folder_atomically(tmp_path / name) as folder:
            (folder / "text").write_text(text)
            left = folder.with_name(folder.name.replace(str(os.getpid()), "4999999"))
    assert (tmp_path / name / "text").read_text() == "new"
    left.mkdir()  # by a process that died
    sweep_folders(tmp_path / name)
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208
