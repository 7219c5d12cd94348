"""The study browser over a folder of studies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from bayes_merger.web.api.events import Events
from bayes_merger.web.api.looking import LookingData
from bayes_merger.web.api.runs import RunData
from bayes_merger.web.api.studies import StudyData
from bayes_merger.web.api.trials import TrialData
from bayes_merger.web.app import build_app
from bayes_merger.web.children import Children
from bayes_merger.web.pages.rating import RatingPages
from bayes_merger.web.pages.studies import StudyPages
from bayes_merger.web.routes import Room
from bayes_merger.web.serving import listen, server_of
from bayes_merger.web.shelf import Shelf
from tests.web.serving import TOKEN
from tests.web.starting import Recorded


def routes(runs: Path, children: Children | None = None, models: str | None = None) -> list[BaseRoute]:
    """Of its pages and their data, without those of ratings; what is started is only remembered."""
    shelf = Shelf(runs)
    data, started = StudyData(shelf), RunData(shelf, models, children or Recorded())
    rooms: list[Room] = [
        StudyPages(shelf),
        data,
        Events(shelf, data.line, started.queue),
        TrialData(shelf),
        LookingData(shelf),
        started,
    ]
    return [route for room in rooms for route in room.routes()]


def client(runs: Path, *more: RatingPages, children: Children | None = None) -> TestClient:
    """A program that has the token."""
    app = build_app(
        [*routes(runs, children), *(route for pages in more for route in pages.routes())], TOKEN, home="/studies"
    )
    bearer = {"authorization": f"Bearer {TOKEN}"}
    return TestClient(app, "http://127.0.0.1:8300", raise_server_exceptions=False, headers=bearer)


@contextmanager
def browsed(runs: Path, models: str | None = None) -> Iterator[str]:
    """The address of a server, without a path; the folder of models, if there is one."""
    with listen("127.0.0.1", 0) as listening:
        server = server_of(build_app(routes(runs, models=models), TOKEN, home="/studies"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
