"""The whole server over a folder of studies, and a program that has its token."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from bayes_merger.web.app import build_app
from bayes_merger.web.guard import Guard
from tests.web.serving import TOKEN
from tests.web.starting import everything

HERE = "http://127.0.0.1:8300"


def whole_app(runs: Path) -> Guard:
    return build_app(everything(runs), TOKEN, home="/studies")


def whole_client(runs: Path) -> TestClient:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    return TestClient(whole_app(runs), HERE, raise_server_exceptions=False, headers=bearer)
