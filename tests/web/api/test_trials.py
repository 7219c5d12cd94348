"""One trial, its merge in every form, its pictures; many trials, a page at a time, and not twice."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.testclient import TestClient

from bayes_merger.cli import main
from bayes_merger.run.folder import RunFolder
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.testing.studies import make_study
from tests.web.browsing import client

API = "/api/v1/studies"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    make_study(place / "s", 24, drawn=24)
    return place


@pytest.fixture(scope="module")
def ask(made: Path) -> Iterator[TestClient]:
    with client(made) as asking:
        yield asking


def printed(*command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(list(command)) in (None, 0)
    return text.getvalue()


@pytest.mark.parametrize("form", ["recipe", "yaml", "weights", "comfyui", "mecha"])
@pytest.mark.parametrize(("trial", "option"), [("4", "--trial=4"), ("best", ""), ("predicted", "--predicted")])
def test_a_merge_is_exported_as_the_command_does(
    ask: TestClient, made: Path, form: str, trial: str, option: str
) -> None:
    answer = ask.get(f"{API}/s/trials/{trial}/exports/{form}")
    assert answer.headers["content-type"].startswith("text/plain")
    command = ["export", "s", form, "--runs", str(made), *([option] if option else [])]
    assert answer.text.strip() == printed(*command).strip()


@pytest.mark.parametrize("form", ["csv", "optuna"])
def test_trials_are_exported_as_the_command_does(ask: TestClient, made: Path, form: str) -> None:
    assert ask.get(f"{API}/s/exports/{form}").text.strip() == printed("export", "s", form, "--runs", str(made)).strip()


def test_the_best_is_what_the_study_says(ask: TestClient) -> None:
    best = ask.get(f"{API}/s").json()["best"]
    found = ask.get(f"{API}/s/trials/best").json()
    assert (found["trial"], found["value"], found["weights"]) == (best["trial"], best["value"], best["weights"])
    assert ask.get(f"{API}/s/trials/best/recipe").json()["weights"] == best["weights"]
    numbers = ask.get(f"{API}/s/trials/best/weights").json()
    assert numbers["weights"] == best["weights"]
    assert any(form["text"].startswith("s-alpha\t") for form in numbers["formats"])


def test_a_page_of_trials_at_a_time(ask: TestClient) -> None:
    def numbers(query: str) -> list[int]:
        return [row["trial"] for row in ask.get(f"{API}/s/trials{query}").json()]

    assert numbers("") == list(range(24))
    assert numbers("?after=19&limit=3") == [20, 21, 22]
    assert numbers("?after=22") == [23]
    assert numbers("?limit=0") == numbers("?after=23") == []
    for wrong in ("after=-1", "limit=2.5", "after=", "limit=\N{SUPERSCRIPT TWO}", "after=1e3", f"after={'9' * 30}"):
        assert ask.get(f"{API}/s/trials?{wrong}").status_code == 422, wrong


@pytest.mark.parametrize("what", ["", "/s", "/s/trials", "/s/report", "/s/ratings"])
def test_what_is_known_is_not_sent_again(made: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(made / "s", tmp_path / "s")
    with client(tmp_path) as ask:
        first = ask.get(API + what)
        tag = first.headers["etag"]
        again = ask.get(API + what, headers={"if-none-match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert ask.get(API + what, headers={"if-none-match": '"other"'}).json() == first.json()
        Ledger(RunFolder(tmp_path / "s").ratings).record("merge", "portrait", 0, 7.5, rater="ann")
        shutil.copy(tmp_path / "s" / "images" / "0003" / "portrait-0.png", tmp_path / "s" / "preview.png")
    with client(tmp_path) as ask:
        assert ask.get(API + what, headers={"if-none-match": tag}).status_code == 200


def test_ratings_tell_what_was_said_and_not_of_which_trial(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "s", tmp_path / "s")
    ledger = Ledger(RunFolder(tmp_path / "s").ratings)
    ledger.record("merge", "portrait", 0, 3.0, rater="ann")
    ledger.record("merge", "portrait", 0, 7.5, rater="ann", ms=800)
    with client(tmp_path) as ask:
        before, said = ask.get(f"{API}/s/ratings").json()
    assert {key: said[key] for key in ("kind", "candidate", "payload", "score", "ms", "rater")} == {
        "kind": "score", "candidate": "merge", "payload": "portrait", "score": 7.5, "ms": 800, "rater": "ann"
    }  # fmt: skip
    assert before["score"] == 3.0
    assert "trial" not in said


def test_pictures_of_a_trial_have_their_scores_and_no_path(ask: TestClient, made: Path) -> None:
    pictures = ask.get(f"{API}/s/trials/4/pictures").json()
    assert [(one["payload"], one["index"]) for one in pictures] == [
        (payload, index) for payload in ("portrait", "street", "still_life") for index in (0, 1)
    ]
    assert set(pictures[0]["scores"]) == {"laion"}
    assert "images" not in pictures[0]["address"]
    answer = ask.get(pictures[0]["address"], params={"size": "whole"})
    assert answer.content == (made / "s" / "images" / "0004" / "portrait-0.png").read_bytes()
    small = ask.get(pictures[0]["address"])
    assert (small.headers["content-type"], "immutable" in small.headers["cache-control"]) == ("image/webp", True)
    other = ask.get(pictures[0]["address"].replace("/trials/4/", "/trials/5/"))
    assert other.status_code == 404


def test_a_picture_that_leads_elsewhere_is_not_shown(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "s", tmp_path / "runs" / "s")
    outside = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    inside = tmp_path / "runs" / "s" / "images" / "0004" / "portrait-0.png"
    inside.unlink()
    inside.symlink_to(outside)
    with client(tmp_path / "runs") as ask:
        assert len(ask.get(f"{API}/s/trials/4/pictures").json()) == 5


@pytest.mark.parametrize("trial", ["-1", "99", "04", "4.0", "\u0664", "x" * 3000, "%00", "Best"])
def test_no_other_word_is_a_trial(ask: TestClient, trial: str) -> None:
    for what in ("", "/recipe", "/weights", "/exports/yaml", "/pictures", "/pictures/0123456789abcdef"):
        answer = ask.get(f"{API}/s/trials/{quote(trial, safe='')}{what}")
        assert answer.status_code == 404, what
        assert len(answer.json()["error"]) < 200


def test_a_merge_that_a_program_cannot_hold_is_refused_with_the_way_out(tmp_path: Path) -> None:
    make_study(tmp_path / "s", 3, architecture="sd3")
    with client(tmp_path) as ask:
        answer = ask.get(f"{API}/s/trials/best/exports/mecha")
    assert answer.status_code == 422
    assert answer.json()["error"] == "sd-mecha has no blocks of Stable Diffusion 3 medium; export the recipe instead"
