"""Runs of a page wait until their device is free, as those of a terminal do; and studies go on as new ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from starlette.testclient import TestClient

from bayes_merger.cli.show import show
from bayes_merger.errors import ConfigError, StorageError
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.control import STOP, replace_file, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.turns import device_of_study
from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.starts import Starts
from bayes_merger.web.queue import Queue
from bayes_merger.web.shelf import Shelf
from tests.web.browsing import client
from tests.web.starting import Going

API = "/api/v1/studies"
DEMO = ["experiment=demo", "n_iters=3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of 6 of 12 trials."""
    runs = tmp_path_factory.mktemp("runs")
    for name in ("s", "t"):
        make_study(runs / name, 6, budget=12, final=False)
    return runs


@pytest.fixture
def waits(made: Path) -> Iterator[RunFolder]:
    """A run that waits for study s, which is drawn, and has no study yet."""
    folder = RunFolder(made / "new")
    with RunFolder(made / "s").locked(), folder.locked():
        replace_file(folder.ticket, {"since": 5.0, "device": "cpu"})
        yield folder


@pytest.fixture
def ask(made: Path) -> Iterator[TestClient]:
    """A program that has the token, and asks a server that starts nothing."""
    with client(made) as asking:
        yield asking


def test_a_run_that_is_to_wait_begins_as_one_that_waits_by_itself(made: Path, ask: TestClient) -> None:
    with RunFolder(made / "s").locked():
        checked = ask.post(API, json={"settings": DEMO, "check": True}).json()
        assert checked["after"] == "s"
        assert ask.post(API, json={"settings": DEMO}).json()["after"] == "s"
        assert ask.post(API, json={"settings": [*DEMO, "generator.device=cpu"]}).json()["after"] == "s"
        assert ask.post(API, json={"settings": DEMO, "at_once": True}).json()["after"] == ""
        assert ask.post(f"{API}/t/resume", json={}).json() == {"said": "It waits for s."}
    assert ask.post(f"{API}/t/resume", json={}).json() == {"said": "It starts again; that takes a while."}


def test_only_who_is_in_a_hurry_does_not_wait(made: Path) -> None:
    going = Going()
    queue = Queue(Shelf(made), going)
    assert queue.start(RunFolder(made / "new"), ["run"], "cuda:0") == ""
    assert queue.start(RunFolder(made / "t"), ["resume", "t"], "cuda:0", at_once=True) == ""
    assert going.commands == [["run", "--queue"], ["resume", "t"]]


def test_all_runs_that_wait_are_listed_whoever_has_started_them(
    ask: TestClient, made: Path, waits: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder(made / "t").locked():
        replace_file(RunFolder(made / "t").ticket, {"since": 6.0, "device": "cpu"})
        assert ask.get("/api/v1/queue").json() == [
            {"study": "new", "after": "s", "wrong": ""},
            {"study": "t", "after": "new", "wrong": ""},
        ]
        assert {one["name"]: one["state"] for one in ask.get(API).json()["studies"]} == {"s": "running", "t": "waiting"}
        show(["--runs", str(made)])
        said = capsys.readouterr().out
        assert "new begins when s no longer draws" in said
        assert said.count("waiting") == 2
        again = ask.post(f"{API}/t/resume", json={})
        assert (again.status_code, again.json()["error"]) == (422, "study 't': waits already")
    assert [one["study"] for one in ask.get("/api/v1/queue").json()] == ["new"]
    with pytest.raises(ConfigError, match="no study 'new'; its run waits its turn"):
        show(["new", "--runs", str(made)])


def test_a_run_whose_device_is_free_begins_in_a_moment(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(made / "new")
    with folder.locked():
        replace_file(folder.ticket, {"since": 5.0, "device": "cpu"})
        show(["--runs", str(made)])
    assert "new begins in a moment\n" in capsys.readouterr().out


def test_a_run_is_taken_out(ask: TestClient, waits: RunFolder) -> None:
    assert ask.post("/api/v1/queue/leave", json={"study": "new"}).status_code == 200
    assert wish_of(waits) == STOP
    for name in ("s", "t", "", "../new"):
        assert ask.post("/api/v1/queue/leave", json={"study": name}).status_code == 404


def test_a_name_that_waits_is_not_given_again(ask: TestClient, waits: RunFolder) -> None:
    again = ask.post(API, json={"settings": [*DEMO, "name=new"]})
    assert (again.status_code, "one waits to begin" in again.json()["error"]) == (422, True)


def test_runs_that_are_being_started_come_in_their_order(made: Path) -> None:
    queue = Queue(Shelf(made), Going())
    folder = RunFolder(made / "t")
    assert queue.start(folder, ["resume", "t"], "cpu") == ""
    with pytest.raises(ConfigError, match="is being started already"):  # a second click
        queue.start(folder, ["resume", "t"], "cpu")
    assert (queue.has("t"), queue.has("s")) == (True, False)
    assert queue.after(folder, "cpu") == ""
    assert queue.after(RunFolder(made / "s"), "cpu") == "t"
    assert queue.start(RunFolder(made / "new"), ["run"], "cuda:1") == ""
    assert queue.start(RunFolder(made / "newer"), ["run"], "auto") == "t"
    assert queue.lines() == [{"study": "newer", "after": "t", "wrong": ""}]


def test_a_run_that_cannot_be_started_says_so_at_once(made: Path) -> None:
    queue = Queue(Shelf(made), Going(hindered="new"))
    with pytest.raises(StorageError, match="the disk is full"):
        queue.start(RunFolder(made / "new"), ["run"], "cuda:0")
    assert queue.lines() == []


def test_a_run_that_failed_is_listed_until_it_is_taken_out(made: Path) -> None:
    queue = Queue(Shelf(made), Going(failed="new"))
    queue.start(RunFolder(made / "new"), ["run", "name=new"], "cpu")
    assert queue.lines() == [{"study": "new", "after": "", "wrong": "no such model"}]
    queue.leave("new")
    assert queue.lines() == []


def test_there_need_be_no_folder_of_studies(tmp_path: Path) -> None:
    queue = Queue(Shelf(tmp_path / "none"), Going())
    assert (queue.lines(), queue.after(RunFolder(tmp_path / "none" / "s"), "auto")) == ([], "")


def test_a_study_that_says_nonsense_of_its_device_may_draw_on_any_and_has_no_fork(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "odd", 1, final=False)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder.database}")
    for generator, device in (("cuda", "auto"), (None, "auto"), ([{}], "auto"), ({"device": "cuda:1"}, "cuda:1")):
        study.set_user_attr(CONFIG, {**study.user_attrs[CONFIG], "generator": generator})
        assert device_of_study(folder) == device
    study.set_user_attr(CONFIG, {**study.user_attrs[CONFIG], "generator": "cuda"})
    with pytest.raises(ConfigError, match="GeneratorConfig"):
        Starts(Shelf(tmp_path), None, lambda name: False).choices("odd")


def test_a_study_goes_on_as_a_new_one(ask: TestClient, made: Path) -> None:
    body = {"fork": "s", "settings": ["optimiser=random", "n_iters=7"], "line": "space.frozen.OUT11=0.5"}
    with RunFolder(made / "t").locked():
        found = ask.post(API, json=body).json()
    assert (found["study"], found["trials"], found["after"]) == ("s-2", 7, "t")
    assert found["command"].startswith("bayes-merger fork s s-2 optimiser=random n_iters=7 space.frozen.OUT11=0.5")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [({"fork": "s", "settings": ["name=t"]}, 422, "there is a study 't'"),
     ({"fork": "s", "settings": ["name=a/b"]}, 422, "'/' may not be in it"),
     ({"fork": "s", "settings": ["method=slerp"]}, 422, "no score of study 's' would compare"),
     ({"fork": "s", "settings": ["runs=/elsewhere"]}, 422, "may not be given on a page"),
     ({"fork": "s", "settings": ["n_iters=many"]}, 422, "n_iters"),
     ({"fork": "s", "settings": ["n_iters=2000000"]}, 422, "n_iters: 2000000 is too large"),
     ({"fork": "nope"}, 404, "there is no study 'nope'"), ({"fork": "../s"}, 404, "there is no study")],
)  # fmt: skip
def test_what_cannot_be_forked_says_why(ask: TestClient, body: dict[str, object], status: int, said: str) -> None:
    answer = ask.post(API, json=body)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True)


def test_the_form_of_a_fork_has_the_study_s_settings(ask: TestClient) -> None:
    settings = {one["name"]: one for one in ask.get("/api/v1/choices?fork=s").json()["settings"]}
    assert {"n_iters", "optimiser", "name"} <= settings.keys()
    assert not settings.keys() & {"method", "payloads", "scorers", "wildcards"}
    assert (settings["init_points"]["default"], settings["n_iters"]["default"]) == ("12", "0")
    assert ask.get("/api/v1/choices?fork=nope").status_code == 404
    page = ask.get("/new?fork=s")
    assert "More of s" in page.text
    assert ask.get("/new?fork=%3Cscript%3E").status_code == 404
