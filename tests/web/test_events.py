"""Server-sent events: what is told, once, and again to whoever connects again."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.run import steering
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.status import StatusReporter
from bayes_merger.testing.progress import RecordingReporter
from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.events import Events
from bayes_merger.web.api.studies import StudyData
from bayes_merger.web.queue import Queue
from bayes_merger.web.shelf import Shelf
from tests.web.browsing import client
from tests.web.starting import Recorded
from tests.web.studies import put_together


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 6 of 12 trials, and the same when it has 8."""
    place = tmp_path_factory.mktemp("made")
    put_together(make_study(place / "s", 6, budget=12, final=False))
    put_together(make_study(place / "later" / "s", 8, budget=12, final=False))
    return place


@pytest.fixture
def runs(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made / "s", tmp_path / "s")
    return tmp_path


def events(runs: Path) -> Events:
    """Whose server looks without a pause."""
    shelf = Shelf(runs, lambda: 0.0)
    return Events(shelf, StudyData(shelf).line, Queue(shelf, Recorded()), pace=0.01)


async def next_of(stream: AsyncIterator[str], name: str) -> dict[str, Any]:
    """The next event of a name; silence and other events are passed over."""
    async for text in stream:
        if text.startswith(f"event: {name}\n"):
            found: dict[str, Any] = json.loads(text.partition("\ndata: ")[2])
            return found
    raise AssertionError("the stream has ended")


def test_a_page_is_told_the_report_and_then_only_what_changes(runs: Path, made: Path) -> None:
    folder = RunFolder(runs / "s")

    async def listening() -> None:
        stream = events(runs).of(folder)
        first = await next_of(stream, "report")
        assert sorted(first["rows"]) == ["0", "1", "2", "3", "4", "5"]
        assert "<tbody></tbody>" in first["parts"]["trials"]
        shutil.copy(made / "later" / "s" / "study.db", folder.database)
        later = await next_of(stream, "report")
        assert {"6", "7"} <= later["rows"].keys()
        assert "head" in later["parts"]
        assert "settings" not in later["parts"]

    asyncio.run(listening())


def test_a_page_is_told_the_run_s_state_and_step(runs: Path) -> None:
    folder = RunFolder(runs / "s")

    async def listening() -> None:
        stream = events(runs).of(folder)
        assert (await next_of(stream, "now"))["state"] == "unfinished"
        with folder.locked():
            StatusReporter(RecordingReporter(), folder).step("drawing", 3, 20)
            running = await next_of(stream, "now")
            assert (running["state"], running["finished"], running["budget"]) == ("running", 6, 12)
            assert running["steps"] == [{"worker": "", "text": "drawing", "done": 3, "total": 20}]
            steering.stop(folder)
            assert (await next_of(stream, "now"))["state"] == "stopping"
        assert (await next_of(stream, "now"))["state"] == "unfinished"

    asyncio.run(listening())


def test_all_studies_are_told_again_when_one_changes_and_what_is_broken_as_such(runs: Path) -> None:
    async def listening() -> None:
        stream = events(runs).of_all()
        assert [one["name"] for one in (await next_of(stream, "studies"))["studies"]] == ["s"]
        (runs / "bad").mkdir()
        (runs / "bad" / "study.db").write_bytes(b"rubbish" * 999)
        states = {one["name"]: one["state"] for one in (await next_of(stream, "studies"))["studies"]}
        assert states == {"s": "unfinished", "bad": "unreadable"}
        broken = events(runs).of(RunFolder(runs / "bad"))
        assert (await next_of(broken, "now"))["state"] == "unreadable"
        assert "not a study" in (await next_of(broken, "wrong"))["error"]

    asyncio.run(listening())


def test_of_a_study_that_is_not_there_nothing_is_told(runs: Path) -> None:
    with client(runs) as asking:
        for name in ("t", "S", "s%2f..%2fs"):
            assert asking.get(f"/api/v1/studies/{name}/events").status_code == 404
        assert asking.get("/api/v1/studies/s/preview").status_code == 404
        asking.headers.pop("authorization")
        assert asking.get("/api/v1/studies/s/events").status_code == 401
        assert asking.get("/api/v1/events").status_code == 401
