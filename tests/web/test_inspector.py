"""optuna-dashboard behind our door: all studies, and nothing that writes."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState
from starlette.testclient import TestClient

from bayes_merger.run.folder import RunFolder, load
from bayes_merger.testing.studies import make_study
from bayes_merger.web.app import build_app
from bayes_merger.web.inspector import SPAN, Inspector, Library
from bayes_merger.web.serving import listen, server_of
from bayes_merger.web.shelf import Shelf
from tests.web.serving import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = "http://127.0.0.1:8300"
INSTALLED = importlib.util.find_spec("optuna_dashboard") and importlib.util.find_spec("a2wsgi")
needs_it = pytest.mark.skipif(not INSTALLED, reason="pip install 'bayes-merger[dashboard]'")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    make_study(place / "one", 14)
    make_study(place / "two", 3, final=False)
    shutil.copytree(place / "one", place / "broken")
    (place / "broken" / "study.db").write_bytes(b"no database at all" * 300)
    return place


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def client(runs: Path) -> TestClient:
    app = build_app(Inspector(Shelf(runs)).routes(), TOKEN, home="/dashboard")
    bearer = {"authorization": f"Bearer {TOKEN}", "origin": HERE}
    return TestClient(app, HERE, raise_server_exceptions=False, headers=bearer)


def test_all_studies_that_can_be_read_are_one_storage(runs: Path) -> None:
    library = Library(Shelf(runs))
    studies = {study.study_name: study for study in library.get_all_studies()}
    assert set(studies) == {"one", "two"}
    ids = {name: study._study_id for name, study in studies.items()}
    assert {library.get_study_id_from_name(name): name for name in ids} == {id: name for name, id in ids.items()}
    own = load(RunFolder(runs / "one"))
    trials = library.get_all_trials(ids["one"])
    assert [trial.values for trial in trials] == [trial.values for trial in own.trials]
    assert library.get_trial(ids["one"] * SPAN + 4).params == own.trials[4].params
    assert library.get_best_trial(ids["one"]).number == own.best_trial.number
    assert len(library.get_all_trials(ids["two"], states=(TrialState.COMPLETE,))) == 3
    assert own.trials[4]._trial_id < SPAN  # ours are as they were
    every = [trial._trial_id for id in ids.values() for trial in library.get_all_trials(id)]
    assert len(set(every)) == 17
    for wrong in (0, 99, -1):
        with pytest.raises(KeyError):
            library.get_study_directions(wrong)
    with pytest.raises(KeyError):
        library.get_study_id_from_name("broken")


def test_it_follows_what_changes_and_keeps_its_ids(runs: Path, made: Path) -> None:
    library = Library(Shelf(runs))
    before = {study.study_name: study._study_id for study in library.get_all_studies()}
    shutil.rmtree(runs / "two")
    make_study(runs / "two", 5, final=False)
    assert {study.study_name: study._study_id for study in library.get_all_studies()} == before
    assert len(library.get_all_trials(before["two"])) == 5


def test_nothing_can_be_written_through_it(runs: Path) -> None:
    study = optuna.load_study(study_name="one", storage=Library(Shelf(runs)))
    assert len(study.trials) == 14
    for write in (study.ask, lambda: study.set_user_attr("x", 1), lambda: optuna.delete_study(study_name="one", storage=study._storage)):  # fmt: skip
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            write()


@needs_it
def test_its_pages_and_data_are_served_and_nothing_else_of_the_disk(runs: Path) -> None:
    with client(runs) as ask:
        page = ask.get("/dashboard")
        assert "Optuna Dashboard" in page.text
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        listed = ask.get("/api/studies").json()["study_summaries"]
        assert {study["study_name"] for study in listed} == {"one", "two"}
        id = {study["study_name"]: study["study_id"] for study in listed}["one"]
        assert len(ask.get(f"/api/studies/{id}", params={"after": 0}).json()["trials"]) == 14
        assert ask.get(f"/csv/{id}").text.count("\n") == 15
        assert ask.get("/static/bundle.js", headers={"accept-encoding": "gzip"}).status_code == 200
        for path in ("/static/..%2f..%2f_app.py", "/static/%2e%2e/_app.py", "/static//etc/passwd", "/api/studies/99"):
            assert ask.get(path).status_code in (403, 404), path


@needs_it
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/studies"),
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/trials/10000001/tell"),
    ],
)
def test_its_buttons_change_nothing(runs: Path, method: str, path: str) -> None:
    with client(runs) as ask:
        ask.get("/api/studies")
        answer = ask.request(method, path, json={"study_name": "x", "directions": ["minimize"], "state": "Fail"})
    assert answer.status_code in (404, 405)
    assert len(load(RunFolder(runs / "one")).trials) == 14


def test_who_has_no_token_sees_none_of_it(runs: Path) -> None:
    with client(runs) as ask:
        ask.headers.pop("authorization")
        for path in ("/dashboard", "/dashboard/studies/1", "/api/studies", "/static/bundle.js", "/csv/1"):
            assert ask.get(path).status_code == 401


@pytest.mark.skipif(bool(INSTALLED), reason="it is installed")
def test_who_has_not_installed_it_is_told_how(runs: Path) -> None:
    with client(runs) as ask:
        answer = ask.get("/dashboard")
    assert answer.status_code == 404
    assert answer.json()["error"].endswith("get it with  pip install 'bayes-merger[dashboard]'")


@pytest.fixture
def served(runs: Path) -> Iterator[str]:
    with listen("127.0.0.1", 0) as listening:
        server = server_of(build_app(Inspector(Shelf(runs)).routes(), TOKEN, home="/dashboard"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join()


@needs_it
def test_it_shows_a_study_in_a_browser(browser: Browser, served: str) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(60_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{served}/dashboard?token={TOKEN}")
    page.get_by_text("one", exact=False).first.click()
    page.wait_for_selector("text=Hyperparameter Importance")
    assert not [text for text in said if "Content Security Policy" in text]
