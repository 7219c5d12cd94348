"""Studies as data: what is in them, when they count as changed, and what no request gets."""

from __future__ import annotations

import io
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from bayes_merger.run.folder import RunFolder
from bayes_merger.testing.studies import make_study
from bayes_merger.web.answers import NotFound
from bayes_merger.web.pages.rating import RatingPages, Sittings
from bayes_merger.web.shelf import Shelf
from tests.web.browsing import client
from tests.web.studies import a_study

API = "/api/v1/studies"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 24 trials, and the same when it had 20."""
    place = tmp_path_factory.mktemp("made")
    make_study(place / "s", 24, drawn=24)
    make_study(place / "before" / "s", 20, budget=24, drawn=20, final=False)
    return place


@pytest.fixture
def runs(tmp_path: Path, made: Path) -> Path:
    """A folder of one study."""
    shutil.copytree(made / "s", tmp_path / "runs" / "s")
    return tmp_path / "runs"


@pytest.fixture
def ask(runs: Path) -> Iterator[TestClient]:
    """A program that has the token."""
    with client(runs) as asking:
        yield asking


def test_all_studies_in_a_line_each_once_until_something_changes(ask: TestClient, runs: Path) -> None:
    found = ask.get(API).json()
    (line,) = found["studies"]
    assert (line["name"], line["state"], line["trials"]) == ("s", "done", {"finished": 23, "budget": 24})
    assert line["best"]["trial"] == 22
    assert ask.get(line["thumbnail"]).headers["content-type"] == "image/webp"
    again = ask.get(API, params={"version": found["version"]})
    assert (again.status_code, again.content) == (204, b"")
    os.utime(runs / "s" / "study.db", (1, 1))
    assert ask.get(API, params={"version": found["version"]}).status_code == 200


def test_a_study_its_trials_and_its_report(ask: TestClient) -> None:
    assert ask.get(f"{API}/s").json()["best"]["trial"] == 22
    trials = ask.get(f"{API}/s/trials").json()
    assert (len(trials), trials[19]["state"], trials[19]["reason"]) == (24, "fail", "the picture is black")
    report = ask.get(f"{API}/s/report").json()
    assert list(report["parts"]) == [
        "head", "side-by-side", "weights", "course", "gallery", "trials", "take-home", "settings",
    ]  # fmt: skip
    assert (report["running"], report["drawing"], report["waiting"]) == (False, [], 0)
    assert ask.get(f"{API}/s/report", params={"version": report["version"]}).status_code == 204


def test_no_part_of_a_report_has_a_style_of_its_own_which_the_page_forbids(ask: TestClient) -> None:
    parts = ask.get(f"{API}/s/report").json()["parts"]
    assert not re.search(r"style=|<script|onerror=|data:", "".join(parts.values()))


def test_pictures_have_ids_and_sizes(ask: TestClient) -> None:
    parts = ask.get(f"{API}/s/report").json()["parts"]
    addresses = re.findall(r'<img src="([^"]+)"', "".join(parts.values()))
    assert len(addresses) == 39
    assert all(re.fullmatch(API + "/s/pictures/[0-9a-f]{16}", one) for one in addresses)
    small, whole = (ask.get(addresses[0], params={"size": size}) for size in ("small", "whole"))
    assert (small.headers["content-type"], whole.headers["content-type"]) == ("image/webp", "image/png")
    assert Image.open(io.BytesIO(whole.content)).size == (64, 64)
    assert ask.get(addresses[0], params={"size": "../.."}).status_code == 404


def test_a_run_is_seen_with_what_it_drew_last(ask: TestClient, runs: Path) -> None:
    folder = RunFolder(runs / "s")
    shutil.copy(next(folder.images(3).glob("*.png")), folder.preview)
    with folder.locked():
        assert ask.get(API).json()["studies"][0]["state"] == "running"
        report = ask.get(f"{API}/s/report").json()
    assert (report["running"], report["drawing"]) == (True, [])
    assert "running" in report["parts"]["head"]
    assert ask.get(f"{API}/s/pictures/{report['newest']}").status_code == 200


def test_a_study_that_waits_for_a_person_leads_to_its_scoring_page(tmp_path: Path) -> None:
    a_study(tmp_path, waiting=1)
    with Sittings(Shelf(tmp_path).folder, "ann") as sittings, client(tmp_path, RatingPages(sittings.of)) as asking:
        assert asking.get(f"{API}/study/report").json()["waiting"] == 1
        assert asking.get("/rate/study").status_code == 200
        assert len(asking.get(f"{API}/study/sitting").json()["trials"]) == 1
        assert asking.get("/rate/other").status_code == 404


def test_a_report_is_made_anew_no_more_often_than_the_machine_can_bear(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "before" / "s", tmp_path / "s")
    seconds = iter([0.0, 2.0, 10.0, 100.0, 101.0])
    shelf = Shelf(tmp_path, lambda: next(seconds))
    folder = shelf.folder("s")
    before = shelf.seen(folder)  # took two seconds
    shutil.rmtree(folder.path)
    shutil.copytree(made / "s", folder.path)
    assert shelf.seen(folder) == before
    after = shelf.seen(folder)
    assert [len(one.trials) for one in (before, after)] == [20, 24]


def truncated(folder: Path) -> None:
    os.truncate(folder / "study.db", 20_000)


def rubbish(folder: Path) -> None:
    (folder / "study.db").write_bytes(b"no database at all" * 300)


def empty(folder: Path) -> None:
    (folder / "study.db").write_bytes(b"")


def newer(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")


def wrong_attribute(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as database, database:
        database.execute("UPDATE study_user_attributes SET value_json = '[NaN]'")


@pytest.mark.parametrize("breaking", [truncated, rubbish, empty, newer, wrong_attribute])
def test_a_broken_study_is_shown_as_such(ask: TestClient, runs: Path, breaking: Callable[[Path], None]) -> None:
    shutil.copytree(runs / "s", runs / "bad")
    breaking(runs / "bad")
    lines = {line["name"]: line for line in ask.get(API).json()["studies"]}
    assert lines["s"]["state"] == "done"
    assert lines["bad"]["state"] == "unreadable"
    assert lines["bad"]["wrong"]
    assert ask.get("/studies/bad").status_code == 200
    answer = ask.get(f"{API}/bad/report")
    assert answer.status_code in (422, 503)
    assert answer.json()["error"]


def test_deleted_pictures_and_those_of_other_folders_are_missing(ask: TestClient, runs: Path) -> None:
    (runs.parent / "secret.png").write_bytes(next((runs / "s" / "images" / "0000").iterdir()).read_bytes())
    shutil.rmtree(runs / "s" / "images")
    best = runs / "s" / "images" / "0022"
    best.mkdir(parents=True)
    (best / "portrait-0.png").symlink_to(runs.parent / "secret.png")
    assert ask.get(API).json()["studies"][0]["thumbnail"] is None
    parts = ask.get(f"{API}/s/report").json()["parts"]
    assert "<img" not in "".join(parts.values())
    assert "the picture is gone" in parts["side-by-side"]


@pytest.mark.parametrize("study", ["../s", "s/../s", "/etc", "S", "s\0", "", "x" * 5000, "\u202e", "%2e%2e"])
def test_no_name_leads_out_of_the_folder(ask: TestClient, study: str) -> None:
    name = quote(study, safe="")
    for address in (f"/studies/{name}", *(f"{API}/{name}/{what}" for what in ("report", "trials", "thumbnail"))):
        assert ask.get(address).status_code in (404, 405), address


@pytest.mark.parametrize("study", ["..", ".", "", "../s", "s/", "s/../s"])
def test_a_study_is_found_by_its_name_alone(runs: Path, study: str) -> None:
    with pytest.raises(NotFound):
        Shelf(runs).folder(study)


def test_nothing_is_changed_by_any_request_and_nothing_is_told_without_the_token(ask: TestClient, runs: Path) -> None:
    assert {ask.request(method, API).status_code for method in ("POST", "PUT", "DELETE")} == {403}
    ask.headers.pop("authorization")
    for address in ("/studies", "/studies/s", API, f"{API}/s", f"{API}/s/report", f"{API}/s/thumbnail"):
        assert ask.get(address).status_code == 401


@pytest.fixture(scope="module")
def asked(made: Path) -> Iterator[TestClient]:
    """As above, of a folder that stays."""
    with client(made) as asking:
        yield asking


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [API, f"{API}/{{}}", f"{API}/{{}}/report", f"{API}/s/pictures/{{}}", f"{API}/s/{{}}", "/studies/{}"]
    ),
    st.text(max_size=40),
    st.dictionaries(st.sampled_from(["version", "size", "token"]), st.text(max_size=20)),
)
def test_no_request_is_a_fault_of_ours(asked: TestClient, address: str, word: str, query: dict[str, str]) -> None:
    name = quote(word.encode(errors="surrogatepass"), safe="")
    assert asked.get(address.format(name), params=query).status_code < 500
