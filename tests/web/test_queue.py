"""Runs wait until their device is free, in their order, through a server's death; and studies go on as new ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from starlette.testclient import TestClient

from bayes_merger.errors import ConfigError, StorageError
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.turns import device_of_study
from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.starts import Starts
from bayes_merger.web.queue import Queue
from bayes_merger.web.shelf import Shelf
from tests.web.browsing import client
from tests.web.starting import Going, Recorded

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
def children() -> Recorded:
    return Recorded()


@pytest.fixture
def queue(made: Path, children: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Of a server that comes back."""
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path))
    return Queue(Shelf(made), children)


@pytest.fixture
def ask(queue: Queue, made: Path) -> Iterator[TestClient]:
    """A program that has the token, and asks another server of the same studies, which starts nothing."""
    with client(made) as asking:
        yield asking


def begun(children: Recorded) -> list[str]:
    """The studies of the runs that were started."""
    names = [next((one for one in command if one.startswith("name=")), command[1]) for command in children.commands]
    return [name.removeprefix("name=") for name in names]


def test_runs_wait_for_one_that_draws_and_begin_in_their_order(
    ask: TestClient, queue: Queue, children: Recorded, made: Path
) -> None:
    with RunFolder(made / "s").locked():
        checked = ask.post(API, json={"settings": DEMO, "check": True}).json()
        assert (checked["after"], queue.waiting()) == ("s", [])
        asked = [ask.post(API, json={"settings": DEMO}).json() for _ in range(2)]
        assert [(one["study"], one["after"]) for one in asked] == [("demo", "s"), ("demo-2", "s")]
        cpu = ask.post(API, json={"settings": [*DEMO, "generator.device=cpu", "name=slow"]}).json()
        assert cpu["after"] == "s"  # which may draw on any device
        queue.look()
        assert children.commands == []
    assert [one["after"] for one in ask.get("/api/v1/queue").json()] == ["", "demo", "demo"]
    queue.look()
    assert begun(children) == ["demo"]
    assert [one.study for one in queue.waiting()] == ["demo-2", "slow"]


def test_a_run_that_has_ended_waits_as_a_new_one_does_unless_it_is_to_begin_at_once(
    ask: TestClient, queue: Queue, made: Path
) -> None:
    with RunFolder(made / "s").locked():
        assert ask.post(f"{API}/t/resume", json={}).json() == {"said": "It waits for s."}
        again = ask.post(f"{API}/t/resume", json={})
        assert (again.status_code, "waits already" in again.json()["error"]) == (422, True)
        assert ask.post(API, json={"settings": DEMO, "at_once": True}).json()["after"] == ""
    assert [one.study for one in queue.waiting()] == ["t"]


def test_a_run_is_taken_out(ask: TestClient, queue: Queue, children: Recorded, made: Path) -> None:
    with RunFolder(made / "s").locked():
        ask.post(f"{API}/t/resume", json={})
        assert ask.post("/api/v1/queue/leave", json={"study": "t"}).status_code == 200
        for name in ("t", "", "../t"):
            assert ask.post("/api/v1/queue/leave", json={"study": name}).status_code == 404
    queue.look()
    assert children.commands == []


def test_a_name_that_waits_is_not_given_again(ask: TestClient, queue: Queue, made: Path) -> None:
    with RunFolder(made / "s").locked():
        named = {"settings": [*DEMO, "name=mine"]}
        assert ask.post(API, json=named).json()["study"] == "mine"
        again = ask.post(API, json=named)
        assert (again.status_code, "one waits to begin" in again.json()["error"]) == (422, True)


def test_a_run_does_not_wait_for_itself(queue: Queue, made: Path) -> None:
    going = Queue(Shelf(made), Going())
    folder = RunFolder(made / "t")
    assert going.start(folder, ["resume", "t"], "cpu") == ""
    with pytest.raises(ConfigError, match="is being started already"):  # a second click
        going.start(folder, ["resume", "t"], "cpu")
    assert (going.waiting(), going.has("t"), going.has("s")) == ([], True, False)
    assert going.after(folder, "cpu") == ""
    assert going.after(RunFolder(made / "s"), "cpu") == "t"


def test_a_run_that_cannot_be_started_holds_up_no_other(queue: Queue, made: Path) -> None:
    children = Going(hindered="new")
    going = Queue(Shelf(made), children)
    with RunFolder(made / "s").locked():
        for name, device in (("new", "cpu"), ("t", "cuda:1")):
            assert going.start(RunFolder(made / name), ["resume", name], device) == "s"
    going.look()
    assert children.commands == [["resume", "t", "--queue"]]
    assert going.lines() == [{"study": "new", "after": "", "wrong": "the disk is full"}]
    going.leave("new")
    with pytest.raises(StorageError, match="the disk is full"):
        going.start(RunFolder(made / "new"), ["run"], "cuda:0", at_once=True)


def test_a_run_that_failed_and_waits_again_is_taken_out_at_once(queue: Queue, made: Path) -> None:
    going = Queue(Shelf(made), Going(failed="new"))
    folder = RunFolder(made / "new")
    going.start(folder, ["run", "name=new"], "cpu")
    assert going.lines() == [{"study": "new", "after": "", "wrong": "no such model"}]
    with RunFolder(made / "s").locked():
        going.start(folder, ["run", "name=new"], "cpu")
        assert going.lines() == [{"study": "new", "after": "s", "wrong": ""}]
        going.leave("new")
    assert going.lines() == []


def test_a_study_that_says_nonsense_of_its_device_may_draw_on_any_and_has_no_fork(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "odd", 1, final=False)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder.database}")
    for generator, device in (("cuda", "auto"), (None, "auto"), ([{}], "auto"), ({"device": "cuda:1"}, "cuda:1")):
        study.set_user_attr(CONFIG, {**study.user_attrs[CONFIG], "generator": generator})
        assert device_of_study(folder) == device
    study.set_user_attr(CONFIG, {**study.user_attrs[CONFIG], "generator": "cuda"})
    with pytest.raises(ConfigError, match="GeneratorConfig"):
        Starts(Shelf(tmp_path), None, lambda name: False).choices("odd")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[3]", "3", '[{"study": "x"}]', '{"a": 1}', '[{"study": "x", "evil": 1}]', "[" * 100_000,
     '[{"study": 3, "arguments": [], "device": "cpu"}]', '[{"study": "x", "arguments": "run", "device": "cpu"}]',
     '[{"study": "x", "arguments": ["run"], "device": null}]'],
)  # fmt: skip
def test_a_queue_that_cannot_be_read_is_empty(text: str, queue: Queue, tmp_path: Path) -> None:
    queue._path.parent.mkdir(exist_ok=True)
    queue._path.write_text(text)
    assert (queue.waiting(), queue.lines()) == ([], [])
    queue.look()


def test_a_study_goes_on_as_a_new_one(ask: TestClient, queue: Queue, children: Recorded, made: Path) -> None:
    body = {"fork": "s", "settings": ["optimiser=random", "n_iters=7"], "line": "space.frozen.OUT11=0.5"}
    with RunFolder(made / "t").locked():
        found = ask.post(API, json=body).json()
    assert (found["study"], found["trials"], found["after"]) == ("s-2", 7, "t")
    assert found["command"].startswith("bayes-merger fork s s-2 optimiser=random n_iters=7 space.frozen.OUT11=0.5")
    queue.look()
    assert children.commands[0][:3] == ["fork", "s", "s-2"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [({"fork": "s", "settings": ["name=t"]}, 422, "there is a study 't'"),
     ({"fork": "s", "settings": ["name=a/b"]}, 422, "'/' may not be in it"),
     ({"fork": "s", "settings": ["method=slerp"]}, 422, "no score of study 's' would compare"),
     ({"fork": "s", "settings": ["runs=/elsewhere"]}, 422, "may not be given on a page"),
     ({"fork": "s", "settings": ["n_iters=many"]}, 422, "n_iters"),
     ({"fork": "s", "settings": ["n_iters=2000000"]}, 422, "more than a run can have"),
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
