"""Runs are started and steered: what is composed, what is refused, and what a process of its own leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bayes_merger.run.control import PAUSE, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.testing.studies import make_study
from bayes_merger.web.children import Children
from tests.web.browsing import client
from tests.web.starting import Recorded

API = "/api/v1/studies"
DEMO = ["experiment=demo", "n_iters=3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 6 of 12 trials."""
    runs = tmp_path_factory.mktemp("runs")
    make_study(runs / "s", 6, budget=12, final=False)
    return runs


@pytest.fixture
def children() -> Recorded:
    return Recorded()


@pytest.fixture
def ask(made: Path, children: Recorded) -> Iterator[TestClient]:
    """A program that has the token."""
    with client(made, children=children) as asking:
        yield asking


def test_settings_are_composed_as_for_the_terminal_and_the_command_line_is_told(
    ask: TestClient, children: Recorded, made: Path
) -> None:
    body = {"settings": DEMO, "line": "final.images=0 'payloads.fox.prompt=a fox'", "check": True}
    found = ask.post(API, json=body).json()
    assert found["command"].startswith(f"bayes-merger run runs={made} experiment=demo n_iters=3 final.images=0 'payl")
    assert (found["study"], found["trials"], children.commands) == ("demo", 13, [])
    pictures = {**body, "settings": ["experiment=demo", "images_budget=2000"]}
    assert ask.post(API, json=pictures).json()["trials"] is None  # it is for the run to divide
    assert ask.post(API, json={**body, "check": False}).status_code == 200
    (command,) = children.commands
    assert command[-3:] == ["name=demo", "web.page=off", "--queue"]
    assert "payloads.fox.prompt=a fox" in command


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["n_iters=3"], "'model_a' has no value"),
        ([*DEMO, "metod=slerp"], "unknown setting 'metod'; did you mean method?"),
        ([*DEMO, "n_iters=many"], "n_iters"),
        (["model_a=x", "model_b=y"], "model_a: no model 'x'; none was found: serve --models FOLDER"),
        ([*DEMO, "runs=/elsewhere"], "runs: may not be given on a page"),
        ([*DEMO, "name=s"], "study 's' exists"),
        ([*DEMO, "name=-"], "name: '-' cannot be a folder"),
    ],
)
def test_what_is_wrong_is_the_terminal_s_one_line(
    ask: TestClient, children: Recorded, settings: list[str], said: str
) -> None:
    for check in (True, False):
        answer = ask.post(API, json={"settings": settings, "check": check})
        assert answer.status_code == 422
        assert said in answer.json()["error"]
    assert children.commands == []


@pytest.mark.parametrize(
    ("settings", "line", "said"),
    [
        (["model_a=A", "model_b=A"], "", "model_b: is model_a too"),
        (["model_a=A", "model_b=B", "method=add_difference"], "", "model_c: method 'add_difference' needs it"),
        (["model_a=A", "model_b=B", "n_iters=-5"], "", "n_iters: -5 is too small"),
        (["model_a=A", "model_b=B", "n_iters=99999999"], "", "n_iters: 99999999 is too large"),
        (["model_a=A", "model_b=B", "init_points=0"], "", "init_points: 0 is too small"),
        (["model_a=A", "model_b=B"], "steps=30", "payloads.NAME.steps"),
        (["model_a=A", "model_b=B"], "a cat", "'a': on a page they are given like  name=value"),
        (["model_a=C", "model_b=B"], "", "model_a: no model 'C'; known: A, B"),
        (["model_a=A", "model_b=B"], "--runs=/elsewhere", "runs: may not be given on a page"),
        (["model_a=A", "model_b=B"], "bayes-merger run --n_iters=3", ""),
    ],
)
def test_the_likeliest_mistakes_are_told_before_anything_is_started(
    settings: list[str], line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "B"):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(64))
    monkeypatch.setenv("BAYES_MERGER_MODELS", str(tmp_path))
    with client(tmp_path / "runs") as ask:
        answer = ask.post(API, json={"settings": settings, "line": line, "check": True})
    assert answer.status_code == (422 if said else 200)
    assert said in answer.json().get("error", "")


@pytest.mark.parametrize(
    "body", [[], {"settings": "x"}, {"settings": [1]}, {"line": 3}, {"check": "yes"}, {"out": "x"}]
)
def test_a_body_that_is_none_starts_nothing(ask: TestClient, children: Recorded, body: object) -> None:
    assert ask.post(API, json=body).status_code == 422
    assert children.commands == []


def test_nothing_is_started_or_steered_by_another_site_or_without_the_token(
    ask: TestClient, children: Recorded
) -> None:
    addresses = [API, *(f"{API}/s/{deed}" for deed in ("pause", "stop", "resume"))]
    for address in addresses:
        assert ask.post(address, json={}, headers={"origin": "https://evil.example"}).status_code == 403
        assert ask.post(address, content="{}", headers={"content-type": "text/plain"}).status_code == 403
        assert ask.post(address, json={}, headers={"host": "evil.example"}).status_code == 421
    ask.headers.pop("authorization")
    assert {ask.post(address, json={}).status_code for address in addresses} == {401}
    assert ask.get("/api/v1/choices").status_code == 401
    assert children.commands == []


def test_a_study_without_a_run_gets_a_new_one(ask: TestClient, children: Recorded, made: Path) -> None:
    before = len(children.commands)
    assert ask.post(f"{API}/s/pause", json={}).status_code == 422
    assert ask.post(f"{API}/s/resume", json={}).json() == {"said": "It starts again; that takes a while."}
    assert children.commands[before] == ["resume", "s", f"runs={made}", "web.page=off", "--queue"]
    assert ask.post(f"{API}/s/resume", json={"trials": -1}).status_code == 422
    assert ask.post(f"{API}/other/resume", json={}).status_code == 404


def test_a_run_that_goes_on_is_steered_where_it_is(ask: TestClient, children: Recorded, made: Path) -> None:
    folder = RunFolder(made / "s")
    with folder.locked():
        assert ask.post(f"{API}/s/pause", json={}).status_code == 200
        assert wish_of(folder) == PAUSE
        assert ask.post(f"{API}/s/resume", json={"trials": 4}).json() == {"said": "It has 4 trials more."}
        assert ask.get(f"{API}/s").json()["trials"]["budget"] == 16
        assert ask.post(f"{API}/s/resume", json={}).status_code == 422
        assert ask.post(f"{API}/s/stop", json={"now": True}).status_code == 200
        assert ask.get(API).json()["studies"][0]["state"] == "stopping"
    assert ask.get(API).json()["studies"][0]["state"] == "unfinished"
    assert children.commands == []


def test_what_a_run_prints_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # as a child's output is on Windows
    children, folder = Children(), RunFolder(tmp_path / "s")
    children.start(folder, ["show", "größe", "--runs", str(tmp_path)])
    while not children.failure(folder):
        time.sleep(0.05)
    assert children.failure(folder).startswith("no study 'größe'; ")


def test_what_cannot_begin_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with client(tmp_path / "runs", children=Children()) as ask:
        settings = [*DEMO, "space.frozen.NOPE=0.5"]
        study = ask.post(API, json={"settings": settings}).json()["study"]
        while (found := ask.get(f"{API}/{study}/output").json())["starting"] or not found["failed"]:
            time.sleep(0.1)
        assert "NOPE" in found["failed"]
        assert not found["begun"]
        assert ask.get(f"{API}/other/output").status_code == 404
    assert not (tmp_path / "runs" / study).exists()
