"""The whole server over a folder of studies, as ``bayes-merger serve`` makes it, and a program that has its token."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from bayes_merger.web.api.runs import RunData
from bayes_merger.web.app import build_app
from bayes_merger.web.guard import Guard
from bayes_merger.web.pages.rating import Sittings
from bayes_merger.web.routes import all_routes
from bayes_merger.web.shelf import Shelf
from tests.web.serving import TOKEN

HERE = "http://127.0.0.1:8300"


def whole_routes(runs: Path) -> list[BaseRoute]:
    shelf = Shelf(runs)
    return all_routes(shelf, Sittings(shelf.folder, "ann"), RunData(shelf, None))


def whole_app(runs: Path) -> Guard:
    return build_app(whole_routes(runs), TOKEN, home="/studies")


def whole_client(runs: Path) -> TestClient:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    return TestClient(whole_app(runs), HERE, raise_server_exceptions=False, headers=bearer)
