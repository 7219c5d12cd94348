"""Ask and tell over HTTP: what is lent, how it comes back, and what nobody loses."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from starlette.testclient import TestClient

import bayes_merger
from bayes_merger.cli import main
from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.idle import space_of
from bayes_merger.run.record import complete_trials, final_of
from bayes_merger.search.study.storage import open_storage
from bayes_merger.search.study.study import load_study
from bayes_merger.search.study.workers import Worker
from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.operations import ADDRESS
from bayes_merger.web.serving import listen, server_of
from tests.processes import Process, environment, program
from tests.web.api.checking import wrong
from tests.web.api.outside import MODELS, begun, copied, taste
from tests.web.api.whole import HERE, whole_app, whole_client
from tests.web.serving import ROOT, TOKEN

API = "/api/v1/studies"
DOC = ROOT / "docs" / "api.md"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return begun(tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def folder(fresh: RunFolder, tmp_path: Path) -> RunFolder:
    return copied(fresh, tmp_path)


@pytest.fixture
def client(folder: RunFolder) -> Iterator[TestClient]:
    with whole_client(folder.path.parent) as asking:
        yield asking


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{API}/mine/ask", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tell(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{API}/mine/tell", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_what_is_lent_and_what_becomes_of_it_is_as_the_document_says(client: TestClient) -> None:
    document = client.get(ADDRESS).json()
    schemas = document["components"]["schemas"]
    lent = ask(client, worker="one", hours=2)
    assert wrong(lent, schemas["Lent"], document) == []
    assert (lent["trial"], lent["done"], lent["budget"], lent["over"]) == (0, 0, 4, False)
    assert lent["weights"]["alpha"] == dict.fromkeys(lent["weights"]["alpha"], 0.0)  # pure A comes first
    assert lent["recipe"]["weights"] == lent["weights"]
    assert lent["command"].startswith("bayes-merger merge mine runs=")
    row = client.get(f"{API}/mine/trials/0").json()
    assert wrong(row, schemas["Trial"], document) == []
    assert (row["state"], row["until"]) == ("running", lent["until"])
    told = tell(client, trial=0, score=5.5)
    assert wrong(told, schemas["Told"], document) == []
    assert told == {"trial": 0, "done": 1, "budget": 4, "over": False, "best": {"trial": 0, "value": 5.5}}
    assert client.get(f"{API}/mine/trials/0").json()["value"] == 5.5


def test_the_command_writes_the_merge(folder: RunFolder, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path.parent)
    command = ask(client)["command"].split()
    assert main(command[1:]) in (None, 0)
    assert (folder.path.parent / "mine-0000.safetensors").stat().st_size > 10_000_000


def test_who_asks_again_before_telling_gets_the_same_merge_and_another_gets_another(client: TestClient) -> None:
    first = ask(client, worker="one")
    again, other = ask(client, worker="one", hours=100), ask(client, worker="two")
    assert (again["trial"], again["weights"]) == (first["trial"], first["weights"])
    assert again["until"] > first["until"] + 3600
    assert other["trial"] != first["trial"]
    tell(client, trial=first["trial"], score=1)
    assert ask(client, worker="one")["trial"] not in (first["trial"], other["trial"])


def test_several_who_ask_at_once_get_different_merges(client: TestClient) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda name: ask(client, worker=name)["trial"], "abcd"))
    assert sorted(numbers) == [0, 1, 2, 3]


def test_a_merge_that_was_never_told_comes_back_and_counts_once_when_it_is_told_late(client: TestClient) -> None:
    lost = ask(client, worker="lost", hours=1e-9)
    found = ask(client, worker="finder")  # ahead of all others
    assert found["trial"] != lost["trial"]
    assert found["weights"] == lost["weights"]
    told = tell(client, trial=lost["trial"], score=4.5)
    assert (told["trial"], told["done"]) == (found["trial"], 1)
    assert tell(client, trial=found["trial"], score=4.5)["done"] == 1
    assert tell(client, trial=lost["trial"], score=4.5)["done"] == 1
    refused = client.post(f"{API}/mine/tell", json={"trial": found["trial"], "score": 9})
    assert (refused.status_code, refused.json()) == (409, {"error": f"trial {found['trial']}: was told already (4.5)"})


def test_however_often_it_is_not_told_it_comes_back(client: TestClient) -> None:
    first = ask(client, worker="lost", hours=1e-9)["weights"]
    assert [ask(client, worker=f"lost {n}", hours=1e-9)["weights"] for n in range(4)] == [first] * 4


def test_a_merge_that_failed_has_its_reason_and_the_search_goes_on(client: TestClient, folder: RunFolder) -> None:
    number = ask(client)["trial"]
    told = tell(client, trial=number, failed="black\n\npictures  everywhere")
    assert (told["done"], told["best"]) == (0, None)
    assert tell(client, trial=number, failed="black pictures everywhere")["done"] == 0
    row = client.get(f"{API}/mine/trials/{number}").json()
    assert (row["state"], row["reason"]) == ("fail", "black pictures everywhere")
    assert client.post(f"{API}/mine/tell", json={"trial": number, "score": 3}).status_code == 409
    assert ask(client)["trial"] != number


def test_a_whole_study_ends_with_its_budget_goes_on_and_is_taken_home(
    client: TestClient, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def to_the_end() -> dict[str, Any]:
        told: dict[str, Any] = {}
        while not (lent := ask(client))["over"]:
            told = tell(client, trial=lent["trial"], score=taste(lent["weights"]))
        assert (lent["trial"], lent["done"]) == (None, lent["budget"])
        return told

    assert to_the_end()["over"]
    assert client.get(API).json()["studies"][0]["state"] == "done"
    assert main(["resume", "mine", f"runs={folder.path.parent}", "n_iters=7"]) in (None, 0)
    assert "6 merges wait for whoever asks" in capsys.readouterr().out
    assert (folder.best / "recipe.json").is_file()
    assert client.get(API).json()["studies"][0]["state"] == "unfinished"
    told = to_the_end()
    study = load(folder)
    phases = [trial.user_attrs["phase"] for trial in complete_trials(study)]
    assert phases == ["design"] * 3 + ["search"] * 6 + ["predicted"]
    final = final_of(study)
    assert final
    assert (final.winner, final.images) == (told["best"]["trial"], 0)


def test_a_study_in_the_place_of_another_is_not_taken_for_it(client: TestClient, folder: RunFolder) -> None:
    for _ in range(3):
        tell(client, trial=ask(client)["trial"], score=1.0)
    shutil.rmtree(folder.path)
    begun(folder.path.parent)
    assert (ask(client)["trial"], ask(client)["done"]) == (0, 0)


def test_whoever_asks_next_ends_a_study_whose_last_teller_was_killed(client: TestClient, folder: RunFolder) -> None:
    study = load_study(open_storage(folder.where), "mine", RandomSampler())
    with Worker(study, space_of(study)) as worker:
        for _ in range(4):
            trial = worker.claim(4)
            assert trial
            worker.tell(trial, 1.0)
    assert client.get(API).json()["studies"][0]["state"] == "unfinished"
    assert ask(client)["over"]
    assert client.get(API).json()["studies"][0]["state"] == "done"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("what", "body", "status", "told"),
    [
        ("tell", {"trial": 77, "score": 1}, 422, "trial 77: there is none; ask for one first"),
        ("tell", {"trial": 0, "score": 1}, 409, "trial 0: is not lent; ask for one first"),
        ("tell", {"trial": 0}, 422, "give either 'score', a number, or 'failed'"),
        ("tell", {"trial": 0, "score": 1, "failed": "no"}, 422, "give either 'score'"),
        ("tell", {"trial": 0, "score": 1e200}, 422, "is no number that can be compared"),
        ("tell", {"trial": -1, "score": 1}, 422, "there is none"),
        ("tell", {"score": 1}, 422, "'trial' is missing"),
        ("ask", {"hours": 0}, 422, "hours: 0 is not between 0 and 8760"),
        ("ask", {"hours": -1}, 422, "hours: -1 is not"),
        ("ask", {"worker": "x" * 201}, 422, "more than 200 letters"),
        ("ask", {"worker": 3}, 422, "'worker' must be text"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    client: TestClient, what: str, body: dict[str, Any], status: int, told: str
) -> None:
    answer = client.post(f"{API}/mine/{what}", json=body)
    assert (answer.status_code, told in answer.json()["error"]) == (status, True), answer.text
    assert "\n" not in answer.json()["error"]


def test_a_study_that_draws_its_own_merges_lends_none(tmp_path: Path) -> None:
    make_study(tmp_path / "mine", 4, final=False)
    with whole_client(tmp_path) as client:
        answer = client.post(f"{API}/mine/ask", json={})
    assert answer.status_code == 422
    assert answer.json()["error"].endswith("begin one to ask and tell with  bayes-merger run ... generator=outside")


def test_a_study_that_names_code_runs_none(client: TestClient, folder: RunFolder, tmp_path: Path) -> None:
    with closing(sqlite3.connect(folder.database)) as database, database:
        (text,) = database.execute("SELECT value_json FROM study_user_attributes WHERE key = 'config'").fetchone()
        settings = json.loads(text) | {
            "optimiser": {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "hacked")}
        }
        database.execute(
            "UPDATE study_user_attributes SET value_json = ? WHERE key = 'config'", (json.dumps(settings),)
        )
    for what, body in (("ask", {}), ("tell", {"trial": 0, "score": 1})):
        answer = client.post(f"{API}/mine/{what}", json=body)
        assert answer.status_code == 422
        assert "is built from, which a study may only name if a file of yours does" in answer.json()["error"]
    with pytest.raises(ConfigError, match="is built from"):
        bayes_merger.open_study("mine", runs=tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_only_who_has_the_token_asks_and_no_other_site(client: TestClient) -> None:
    client.headers.pop("authorization")
    assert client.post(f"{API}/mine/ask", json={}).status_code == 401
    cookie = {"cookie": f"bayes_merger={TOKEN}"}
    assert client.post(f"{API}/mine/ask", json={}, headers=cookie).status_code == 403
    assert (
        client.post(f"{API}/mine/ask", json={}, headers=cookie | {"origin": "http://evil.example"}).status_code == 403
    )
    assert client.post(f"{API}/mine/ask", json={}, headers=cookie | {"origin": HERE}).json()["trial"] == 0


@contextmanager
def served(runs: Path) -> Iterator[str]:
    with listen("127.0.0.1", 0) as listening:
        server = server_of(whole_app(runs))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def test_the_program_of_the_docs_runs_as_it_stands(folder: RunFolder, tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    with served(folder.path.parent) as server:
        done = subprocess.run(
            [sys.executable, "program.py", server, TOKEN, "mine"], cwd=tmp_path, capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(",")[0] for line in done.stdout.splitlines()] == [f"{n} of 4" for n in range(1, 5)]


def test_a_server_that_is_killed_loses_nothing(folder: RunFolder, tmp_path: Path) -> None:
    variables = {**environment(), "BAYES_MERGER_TOKEN": TOKEN}

    def post(server: str, what: str, **body: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{server}{API}/mine/{what}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            data: dict[str, Any] = json.load(answer)
            return data

    with Process(program, "serve", "--no-browser", "--runs", str(tmp_path), variables=variables) as server:
        lent = post(server.stdout.readline().split("/studies")[0], "ask", worker="one")
        server.kill()
    with served(tmp_path) as address:
        assert post(address, "ask", worker="one")["weights"] == lent["weights"]
        assert post(address, "tell", trial=lent["trial"], score=3.5)["done"] == 1


def test_the_python_of_the_docs_runs_as_it_stands(fresh: RunFolder, tmp_path: Path, monkeypatch: Any) -> None:
    folder = copied(fresh, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)[1], {})
    assert [trial.value for trial in complete_trials(load(folder))] == [5.2]


def test_from_python_it_is_opened_by_its_name_alone(folder: RunFolder) -> None:
    runs = folder.path.parent
    with bayes_merger.open_study("mine", runs=runs) as study:
        for _ in range(4):
            suggestion = study.ask()
            assert suggestion.recipe
            assert suggestion.recipe.weights == suggestion.weights
            study.tell(suggestion, taste(suggestion.weights))
        with pytest.raises(ConfigError, match="all 4 trials are told; for more  bayes-merger resume mine n_iters=MORE"):
            study.ask()
    assert whole_client(runs).get(API).json()["studies"][0]["state"] == "done"
    with pytest.raises(ConfigError, match="seed: study 'mine' was begun by a run and has its own; leave it out"):
        bayes_merger.open_study("mine", runs=runs, seed=3)


def test_a_study_of_python_lends_too_without_a_recipe(tmp_path: Path) -> None:
    with bayes_merger.open_study("mine", runs=tmp_path, frozen={"IN00-OUT10": 0.5}, init_points=3):
        pass
    with whole_client(tmp_path) as client:
        lent = ask(client)
        assert (lent["recipe"], lent["command"], lent["budget"], lent["over"]) == (None, None, None, False)
        assert tell(client, trial=lent["trial"], score=-2.0)["best"] == {"trial": 0, "value": -2.0}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("scorers=laion", "scorers: means nothing where merges are drawn outside; leave it out"),
        ("payloads.portrait.steps=3", "payloads.portrait.steps: means nothing"),
        ("patience=20", "patience: means nothing"),
        ("workers=2", "workers: means nothing"),
        ("images_budget=100", "images_budget: means nothing"),
        ("images_per_prompt=8", "images_per_prompt: means nothing"),
    ],
)
def test_settings_of_drawing_are_refused_when_it_begins(
    tmp_path: Path, setting: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *MODELS, "generator=outside", f"runs={tmp_path / 'runs'}", setting]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_ready_made_run_is_lent_without_what_it_draws(tmp_path: Path) -> None:
    words = ["experiment=demo", "generator=outside", "init_points=3", "n_iters=0", "name=demo", f"runs={tmp_path}"]
    assert main(["run", *words]) in (None, 0)
    config = load(RunFolder(tmp_path / "demo")).user_attrs["config"]
    assert (config["payloads"], config["images_per_prompt"]) == ({}, None)
