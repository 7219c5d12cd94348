"""Any pictures, judged: a table, CSV and JSON; what cannot be read is named; what strangers wrote is no formula."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bayes_merger.cli import main

SCORER = """\
from bayes_merger.scoring import ScorerBase


class Redness(ScorerBase):
    def score(self, images):
        if any(image.prompt == "poison" for image in images):
            raise ValueError("not that one")
        return [image.image.getpixel((0, 0))[0] / 25.5 for image in images]


class Words(ScorerBase):
    def score(self, images):
        return [float(len(image.prompt.split())) for image in images]


class Spread(ScorerBase):
    def score_trial(self, images):
        reds = [image.image.getpixel((0, 0))[0] for image in images]
        return max(reds) - min(reds)
"""


def draw(path: Path, red: int, prompt: str = "") -> None:
    info = PngInfo()
    if prompt:
        info.add_text("parameters", f"{prompt}\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 1, Size: 8x8")
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path, pnginfo=info)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("scorers").mkdir()
    Path("scorers/red.py").write_text(SCORER)
    for name, kind in (("redness", "Redness"), ("words", "Words"), ("spread", "Spread")):
        Path(f"scorers/{name}.yaml").write_text(f"{name}:\n  _target_: red.{kind}\n")
    Path("pictures/inner").mkdir(parents=True)
    draw(Path("pictures/dark.png"), 51, "a (red:1.2) ring")
    draw(Path("pictures/inner/light.png"), 204, "=1+1")
    draw(Path("pictures/plain.png"), 102)
    Path("pictures/notes.txt").write_text("not a picture")
    return tmp_path


def test_a_folder_is_judged_the_best_first(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "pictures", "--scorers", "redness,words", "--json", "scorers.words.importance=0"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == [
        {"file": "pictures/inner/light.png", "points": 8.0, "redness": 8.0, "words": 1.0, "prompt": "=1+1",
         "wrong": ""},
        {"file": "pictures/plain.png", "points": 4.0, "redness": 4.0, "words": 0.0, "prompt": "", "wrong": ""},
        {"file": "pictures/dark.png", "points": 2.0, "redness": 2.0, "words": 3.0, "prompt": "a red ring", "wrong": ""},
    ]  # fmt: skip
    assert "no prompt is known of plain.png" in err


def test_a_prompt_is_for_pictures_that_say_none(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "pictures", "--scorers=words", "--prompt", "one two three four", "--csv"]) == 0
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["file"], row["words"]) for row in rows] == [
        ("pictures/plain.png", "4.0"),
        ("pictures/dark.png", "3.0"),
        ("pictures/inner/light.png", "1.0"),
    ]
    assert rows[2]["prompt"] == "'=1+1", "a spreadsheet must not run a stranger's prompt"
    assert err == ""


def test_a_table_is_for_the_eye_and_a_file_is_written_whole(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "pictures/dark.png", "pictures/dark.png", "--scorers=redness"]) == 0
    assert capfd.readouterr().out.count("dark.png") == 1
    assert main(["score", "pictures", "--scorers=redness", "--out=scores.csv"]) == 0
    assert capfd.readouterr().out == "3 pictures in scores.csv\n"
    assert (
        Path("scores.csv").read_text().startswith("file,points,redness,prompt,wrong\npictures/inner/light.png,8.0,8.0")
    )


def test_a_scorer_of_whole_trials_sees_all_of_them(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "pictures", "--scorers=spread", "--json"]) == 0
    assert [row["spread"] for row in json.loads(capfd.readouterr().out)] == [153.0, 153.0, 153.0]


def test_what_cannot_be_judged_is_named_and_the_others_are(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("pictures/broken.png").write_bytes(Path("pictures/dark.png").read_bytes()[:60])
    Path("pictures/fake.jpg").write_text("<html>")
    draw(Path("pictures/poison.png"), 9, "poison")
    assert main(["score", "pictures", "--scorers=redness,words", "--json"]) == 0
    out, err = capfd.readouterr()
    rows = {Path(row["file"]).name: row for row in json.loads(out)}
    assert rows["dark.png"]["redness"] == 2.0
    assert (rows["poison.png"]["redness"], rows["poison.png"]["words"], rows["poison.png"]["points"]) == (
        None,
        1.0,
        None,
    )
    assert rows["fake.jpg"]["words"] is None
    assert "note: pictures/fake.jpg: is no picture" in err
    assert "pictures/poison.png: scorer redness raised ValueError: not that one" in err
    assert "note: pictures/broken.png: " in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pictures"], "--scorers"),
        (["nowhere", "--scorers=redness"], "nowhere: there is no such picture or folder"),
        (["scorers", "--scorers=redness"], "scorers: has no pictures"),
        (["pictures", "--scorers=rednes"], "redness"),
        (["pictures", "--scorers=manual"], "manual asks a person"),
        (["pictures/notes.txt", "--scorers=redness"], "none of 1 pictures could be judged"),
        (["pictures", "--scorers=redness", "--out=scores.txt"], "must end in .csv or .json"),
        (["pictures", "--scorers=redness", "n_iter=5"], "n_iter"),
    ],
)
def test_what_cannot_be_is_one_line(
    workplace: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["score", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err


README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_s_own_scorer_works_as_it_stands_there(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```\w+ (scorers/\S+)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["scorers/variety.py", "scorers/variety.yaml"]
    assert sum(bool(line.strip()) for _, text in blocks for line in text.splitlines()) <= 10
    for name, text in blocks:
        Path(name).write_text(text)
    assert main(["score", "pictures", "--scorers", "variety", "--json"]) == 0
    assert {row["variety"] for row in json.loads(capfd.readouterr().out)} == {46 / 25.5}
