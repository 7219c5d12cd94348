"""The report: one page that asks nobody, in which nothing of a study can run, whatever the study holds."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.report.contents import contents_of
from bayes_merger.report.page import page
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.testing.studies import make_study
from tests.run.fake_run import make_setup, searched

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Read(HTMLParser):
    """What a browser would make of a page: its tags with attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shown(folder: RunFolder) -> Read:
    return Read(page(contents_of(load(folder), folder)))


def test_a_page_needs_no_other_file_and_is_small(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", 30, drawn=30, size=256)
    text = page(contents_of(load(folder), folder))
    assert len(text.encode()) < 1_000_000
    found = Read(text)
    pictures = found.all("img")
    assert len(pictures) == 39  # three rows of four, nine of each payload
    assert all(one["src"].startswith("data:image/webp;base64,") for one in pictures)
    assert not found.all("link")
    assert not re.search(r"https?:", text.replace("http://www.w3.org/2000/svg", ""))
    policy = found.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_a_page_says_what_a_person_wants_to_know(tmp_path: Path) -> None:
    found = shown(make_study(tmp_path / "s", 40, drawn=3))
    assert "ahead of model A, the best of its parents, by 1.20" in found.text
    assert "dreamshaper_8 × revAnimated_v122" in found.text
    assert [tag for tag in ("model A", "model B", "even mix", "best") if tag not in found.text] == []
    assert "26 numbers, BASE first (supermerger, model-mixer)" in found.text
    assert "25 numbers and base" in found.text
    assert "bayes-merger merge s" in found.text
    assert "the picture is black" in found.text  # why a trial failed


@pytest.mark.parametrize(("architecture", "count"), [("sdxl", "20"), ("sd3", "25"), ("flux", "58")])
def test_every_architecture_has_its_picture(tmp_path: Path, architecture: str, count: str) -> None:
    found = shown(make_study(tmp_path / "s", 16, architecture=architecture, idle=()))
    assert f"{count} numbers, BASE first" in found.text
    assert len([one for one in found.all("text") if one.get("class") == "cell"]) == int(count)


def test_what_is_hostile_in_a_study_is_text(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", 12, drawn=3, payloads={"p": EVIL})
    renamed = RunFolder(tmp_path / "<img src=x onerror=alert(3)>")
    folder.path.rename(renamed.path)
    found = shown(renamed)
    assert len(found.all("script")) == 1
    assert all("onerror" not in attributes for _, attributes in found.tags)
    assert EVIL in found.text
    assert "<img src=x onerror=alert(3)>" in found.text


def test_a_study_that_is_not_finished_says_so(tmp_path: Path) -> None:
    found = shown(make_study(tmp_path / "s", 10, budget=80, final=False))
    assert "Not finished: 10 of 80 trials." in found.text
    assert "unfinished" in found.text


def test_a_study_without_a_score_is_a_page_too(tmp_path: Path) -> None:
    found = shown(make_study(tmp_path / "s", 0, budget=80, final=False))
    assert "Not finished: 0 of 80 trials." in found.text
    assert "None has finished yet." in found.text


@pytest.mark.parametrize("damage", ["deleted", "no picture", "a bomb"])
def test_a_picture_that_is_gone_or_no_picture_is_told(tmp_path: Path, damage: str) -> None:
    folder = make_study(tmp_path / "s", 12, drawn=12)
    for path in folder.path.glob("images/*/*.png"):
        if damage == "deleted":
            path.unlink()
        elif damage == "no picture":
            path.write_bytes(b"GIF89a<script>")
        else:  # a header that promises 4 billion pixels
            data = bytearray(path.read_bytes())
            data[16:24] = (65535).to_bytes(4, "big") * 2
            path.write_bytes(bytes(data))
    found = shown(folder)
    assert not found.all("img")
    assert "the picture is gone" in found.text


def test_pictures_elsewhere_on_the_disk_are_not_taken_in(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "runs" / "s", 12, drawn=1)
    secret = tmp_path / "secret.png"
    (folder.images(0) / "portrait-0.png").rename(secret)
    (folder.images(0) / "portrait-0.png").symlink_to(secret)
    assert len(shown(folder).all("img")) == 2 + 2  # model A's other two, and both again in the gallery


def test_the_command_writes_it_beside_the_study_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "mine", 6)
    assert main(["report", "mi", "--runs", str(tmp_path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (tmp_path / "mine/report.html").read_text().startswith("<!doctype html>")
    assert main(["report", "-", "--runs", str(tmp_path), "--out", str(tmp_path / "a/b.html")]) == 0
    assert (tmp_path / "a/b.html").is_file()
    capsys.readouterr()
    make_study(tmp_path / "minor", 0)
    assert main(["report", "mi", "--runs", str(tmp_path)]) == 2
    assert "'mi': 2 studies begin so (minor, mine)" in capsys.readouterr().err


def test_of_several_objectives_the_front_is_shown(tmp_path: Path) -> None:
    both = {"first": lambda alpha, seed: 9.0 - alpha, "second": lambda alpha, seed: 3.0 + alpha}
    searched(make_setup(scorers=both, objectives=["first", "second"], n_iters=2), tmp_path / "s")
    found = shown(RunFolder(tmp_path / "s"))
    assert "the Pareto front" in found.text
    assert "weighted sum of points" in found.text


def test_a_study_of_newer_tables_is_read_or_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_study(tmp_path / "s", 6)
    with closing(sqlite3.connect(folder.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
        database.execute("UPDATE version_info SET schema_version = 99")
    capsys.readouterr()
    assert main(["report", "s", "--runs", str(tmp_path)]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["show", "--runs", str(tmp_path)]) == 0
    assert "unreadable" in capsys.readouterr().out
