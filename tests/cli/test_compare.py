"""Two merges side by side, the course of the best, and what other programs are given."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import optuna
import pytest
import yaml
from PIL import Image

from bayes_merger.cli import main
from bayes_merger.report.comparison import paired_test
from bayes_merger.testing.studies import make_study
from tests.command_line import refused


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of the same payloads with pictures, and one of other payloads without."""
    folder = tmp_path_factory.mktemp("runs")
    make_study(folder / "one", 24, drawn=24, pictures=4)
    make_study(folder / "two", 24, drawn=24, pictures=4)
    make_study(folder / "other", 6, payloads={"fox": "a fox"}, architecture="flux", idle=())
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_student_s_t_of_pairs() -> None:
    found = paired_test([1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 6.0])
    assert (found.pairs, found.lead) == (8, 3.0)
    assert found.error == pytest.approx(0.65465, abs=1e-5)
    assert found.p == pytest.approx(0.0025, abs=1e-4)  # t = 4.583 with 7 degrees of freedom
    assert paired_test([1.0, 2.0]).p is None
    assert paired_test([1.0]).error is None
    assert paired_test([0.5] * 8).p is None  # equal differences have no deviation


def test_two_trials_of_a_study(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pair.png"
    text = said(capsys, "compare", "one", "0", "1", "--runs", str(runs), "--out", str(out))
    assert "one, trial 0  against  one, trial 1" in text
    assert "over 12 pictures" in text
    assert "p = " in text
    assert "IN01.alpha" in text
    assert "IN00.alpha" not in text  # idle, the same in both
    with Image.open(out) as picture:
        assert picture.width == 2 * 192 + 3 * 8
    data = json.loads(said(capsys, "compare", "one", "0", "best", "--runs", str(runs), "--json"))
    assert len(data["pairs"]) == 12
    assert data["pairs"][0]["first"]["trial"] == 0
    assert abs(data["weights"][0][2] - data["weights"][0][1]) >= abs(data["weights"][-1][2] - data["weights"][-1][1])


def test_two_studies(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.png")
    text = said(capsys, "compare", "one", "3", "two", "3", "--runs", str(runs), "--out", out)
    assert "two, trial 3 leads by +0.000 ± 0.000 over 12 pictures, the same on each" in text
    text = said(capsys, "compare", "one", "other", "--runs", str(runs))
    assert "they have no prompt and seed in common" in text
    assert "no picture of both is kept" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["one", "0"], "1 merge, not two"),
        (["one", "0", "1", "2"], "3 merges, not two"),
        (["one", "0", "999"], "no finished trial 999"),
        (["nobody", "one"], "no study 'nobody'"),
        (["one", "0", "1", "--out", "x.txt"], "end the name in .png or .webp or .jpg"),
    ],
)
def test_what_cannot_be_compared(runs: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refused(capsys, "compare", *words, "--runs", str(runs))


def test_the_course_of_the_best_moves(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "history", "one", "--runs", str(runs))
    assert "each new best" in text
    out = tmp_path / "history.webp"
    said(capsys, "history", "one", "--blink", "--runs", str(runs), "--out", str(out))
    with Image.open(out) as picture:
        assert getattr(picture, "n_frames", 1) >= 3
    assert "no two pictures" in refused(capsys, "history", "other", "--blink", "--runs", str(runs))
    told = refused(capsys, "history", "one", "--blink", "--payload", "fox", "--runs", str(runs))
    assert "no payload 'fox'" in told


def test_every_form_of_an_export(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def exported(form: str, name: str = "one") -> str:
        return said(capsys, "export", name, form, "--runs", str(runs))

    recipe = json.loads(exported("recipe"))
    assert recipe == yaml.safe_load(exported("yaml"))
    assert len(recipe["weights"]["alpha"]) == 26
    assert "mbwpresets.txt" in exported("weights")
    assert json.loads(exported("comfyui"))["class_type"] == "ModelMergeSD1"
    assert exported("mecha").startswith("version 0.1.0\nmodel ")
    rows = list(csv.DictReader(io.StringIO(exported("csv"))))
    assert len(rows) == 24
    assert float(rows[2]["IN01.alpha"]) == 0.5
    told = dict(line.split(maxsplit=1) for line in exported("optuna").splitlines())
    assert optuna.load_study(study_name=told["study"], storage=told["storage"]).user_attrs["recipe"]
    out = tmp_path / "recipe.yaml"
    assert f"wrote {out}" in said(
        capsys, "export", "two", "yaml", "--trial", "4", "--runs", str(runs), "--out", str(out)
    )
    assert yaml.safe_load(out.read_text())["method"] == "weighted_sum"
    assert "no form 'jason'" in refused(capsys, "export", "one", "jason", "--runs", str(runs))
    assert "sd-mecha has no blocks of Flux" in refused(capsys, "export", "other", "mecha", "--runs", str(runs))


def test_the_table_of_trials_is_sorted_and_filtered(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(said(capsys, "show", "one", "--csv", *arguments, "--runs", str(runs)))))

    points = [row["points"] for row in shown("--sort", "points")]
    assert points[-1] == ""  # the one that failed
    assert [float(one) for one in points[:-1]] == sorted((float(one) for one in points[:-1]), reverse=True)
    assert [row["trial"] for row in shown("--filter", "black")] == ["19"]
    assert len(shown("--filter", "design")) == 12
    assert "no column 'pionts'; did you mean points?" in refused(
        capsys, "show", "one", "--sort", "pionts", "--runs", str(runs)
    )
    text = said(capsys, "show", "one", "--trials", "--runs", str(runs))
    assert "black" in text  # why one failed


def test_all_studies_in_a_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", "--runs", str(runs))
    assert "23/24" in text
    rows = {row["name"]: row for row in json.loads(said(capsys, "show", "--runs", str(runs), "--json"))}
    assert rows["one"]["state"] == "done"
    assert rows["one"]["trials"] == {"finished": 23, "budget": 24}
    assert rows["one"]["last"].startswith("20")


def test_a_name_is_whole_however_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "dreamshaper_8-revAnimated_v122-and_many_more_words_that_somebody_typed"
    make_study(tmp_path / name, 3)
    make_study(tmp_path / f"{name}-2", 3)
    text = said(capsys, "show", "--runs", str(tmp_path))
    assert f" {name} " in text
    assert f" {name}-2 " in text


def test_a_study_that_cannot_be_read_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path / "sound", 3)
    broken = make_study(tmp_path / "broken", 3)
    broken.database.write_bytes(b"SQLite format 3\0" + bytes(4000))
    capsys.readouterr()
    assert main(["show", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "unreadable" in shown.out
    assert "3/3" in shown.out
    assert shown.err.startswith("broken: ")


def test_a_study_that_is_running_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(tmp_path / "s", 6, budget=12, final=False)
    with folder.locked():
        assert folder.is_running
        assert "running" in said(capsys, "show", "--runs", str(tmp_path))
    assert not folder.is_running
    assert "unfinished" in said(capsys, "show", "--runs", str(tmp_path))
    assert not make_study(tmp_path / "other", 1, final=False).is_running
    assert not (tmp_path / "other" / ".lock").exists()  # nothing is left behind by looking


def test_a_name_may_be_abbreviated_where_only_one_begins_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dream-a", "dream-b", "dream"):
        make_study(tmp_path / name, 4)
    where = ("--runs", str(tmp_path))
    assert said(capsys, "show", "dream-a", *where).startswith("dream-a: ")
    assert said(capsys, "show", "dream", *where).startswith("dream: ")  # the whole name of one
    assert said(capsys, "show", "-", *where).startswith("dream: ")  # the newest
    assert "'drea': 3 studies begin so" in refused(capsys, "show", "drea", *where)
    assert "no study 'other'" in refused(capsys, "show", "other", *where)
    assert "no study '../dream'" in refused(capsys, "show", "../dream", *where)
