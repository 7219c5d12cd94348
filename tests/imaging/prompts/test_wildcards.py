"""Word lists as people have them: in any script and encoding, of any size, in nested folders."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.prompts.wildcards import Wildcards


def expand(folder: Path, text: str) -> str:
    return Wildcards(folder).expand(text, random.Random(0))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("größer\n".encode(), "größer"),
        ("größer\r\n".encode("latin-1"), "größer"),
        ("größer\r\n".encode("utf-16"), "größer"),
        ("猫\n".encode("utf-8-sig"), "猫"),
        ("красный\n".encode("utf-16-le"), "красный"),
    ],
)
def test_a_list_is_read_in_the_encoding_that_it_has(data: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_bytes(data)
    assert expand(tmp_path, "a __word__") == f"a {word}"


def test_a_list_whose_encoding_cannot_be_told_is_named(tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_bytes("красный".encode("cp1251"))
    with pytest.raises(
        ConfigError, match=r"wildcard __word__: .*word\.txt: its encoding cannot be told; save it as UTF-8"
    ):
        expand(tmp_path, "a __word__")


@pytest.mark.parametrize("name", ["цвет", "色", "größe", "mes couleurs", "a/b-c.d", "2girls"])
def test_a_list_is_called_in_any_script(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{unicodedata.normalize('NFD', name)}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("red")
    assert expand(tmp_path, f"a __{unicodedata.normalize('NFC', name)}__ ball") == "a red ball"


def test_lists_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("__twice__ __twice__ and more")
    (tmp_path / "long.txt").write_text("x" * 15_000)
    for text in ("__twice__", "__long__ __long__"):
        with pytest.raises(ConfigError, match="more than 20000 characters"):
            expand(tmp_path, text)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "ring.txt").symlink_to(tmp_path / "ring.txt")
    for name, words in (
        ("pipe", "not a regular file"),
        ("folder", "cannot be read"),
        ("ring", "no ring.txt"),
        ("x/../pipe", "no x/"),
    ):
        with pytest.raises(ConfigError, match=words):
            expand(tmp_path, f"__{name}__")
