"""The API's document is made from its routes, and what they answer is what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.operations import ADDRESS, Operation, document
from bayes_merger.web.api.schemas import schema_of
from tests.web.api.checking import wrong
from tests.web.api.whole import whole_client
from tests.web.serving import ROOT
from tests.web.starting import everything
from tests.web.studies import a_study

API = "/api/v1/studies"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that is over, one of two trials, and one that waits for a person."""
    place = tmp_path_factory.mktemp("runs")
    make_study(place / "s", 24, drawn=24)
    make_study(place / "young", 2, budget=20, final=False)
    a_study(place, waiting=1, payloads=1)
    shutil.copytree(place / "s", place / "broken")
    (place / "broken" / "study.db").write_bytes(b"no database at all" * 300)
    return place


@pytest.fixture(scope="module")
def ask(runs: Path) -> Iterator[TestClient]:
    with whole_client(runs) as client:
        yield client


@pytest.fixture(scope="module")
def described(ask: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = ask.get(ADDRESS).json()
    return found


def test_every_route_of_the_api_is_in_the_document(runs: Path, described: dict[str, Any]) -> None:
    routes = [route for route in everything(runs) if str(getattr(route, "path", "")).startswith("/api/v1")]
    assert all(isinstance(route, Operation) for route in routes)
    described_here = {(one.path, one.method.lower()) for one in routes if isinstance(one, Operation)}
    assert described_here | {(ADDRESS, "get")} == {
        (path, method) for path, found in described["paths"].items() for method in found
    }
    names = [found["operationId"] for path in described["paths"].values() for found in path.values()]
    assert len(set(names)) == len(names)
    assert all(found["summary"] for path in described["paths"].values() for found in path.values())


def test_the_document_of_the_docs_is_the_servers(described: dict[str, Any]) -> None:
    written = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert written == described, "bayes-merger serve --openapi > docs/openapi.json"


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (API, API),
        (API + "/{study}", f"{API}/s"),
        (API + "/{study}", f"{API}/young"),
        (API + "/{study}/trials", f"{API}/s/trials"),
        (API + "/{study}/trials", f"{API}/study/trials"),
        (API + "/{study}/trials/{trial}", f"{API}/s/trials/best"),
        (API + "/{study}/trials/{trial}/weights", f"{API}/s/trials/4/weights"),
        (API + "/{study}/trials/{trial}/pictures", f"{API}/s/trials/4/pictures"),
        (API + "/{study}/trials/{trial}/recipe", f"{API}/s/trials/best/recipe"),
        (API + "/{study}/report", f"{API}/s/report"),
        (API + "/{study}/ratings", f"{API}/study/ratings"),
        (API + "/{study}/sitting", f"{API}/study/sitting"),
    ],
)
def test_what_is_answered_is_what_the_document_says(
    ask: TestClient, described: dict[str, Any], path: str, address: str
) -> None:
    answers = described["paths"][path]["get"]["responses"]
    answer = ask.get(address)
    assert answer.status_code == 200
    assert wrong(answer.json(), answers["200"]["content"]["application/json"]["schema"], described) == []
    assert wrong({"surprise": 1}, answers["default"]["content"]["application/json"]["schema"], described) != []


def test_what_is_refused_is_refused_as_the_document_says(ask: TestClient, described: dict[str, Any]) -> None:
    failure = described["paths"][API]["get"]["responses"]["default"]["content"]["application/json"]["schema"]
    for address, told in (
        (f"{API}/none", "there is no study 'none'"),
        (f"{API}/s/trials?after=x", "after: 'x' is no whole number; give one like  ?after=20"),
        (f"{API}/s/trials/99", "there is no trial '99'; give a number, or best"),
        (f"{API}/s/trials/best/exports/yam", "did you mean yaml?"),
        (f"{API}/s/exports/cvs", "did you mean csv?"),
        (f"{API}/broken", "not a study's storage"),
        (f"{API}/young/trials/predicted/recipe", "too few scores"),
    ):
        answer = ask.get(address)
        assert answer.status_code in (404, 422), address
        assert wrong(answer.json(), failure, described) == []
        assert told in answer.json()["error"], address


class Leaf(TypedDict):
    """A leaf."""

    size: float
    colour: NotRequired[Literal["green", "red"]]


@dataclass
class Tree:
    """A tree."""

    leaves: list[Leaf]
    name: str | None = None
    more: dict[str, int] = field(default_factory=dict)


def test_a_type_becomes_its_schema() -> None:
    known: dict[str, Any] = {}
    assert schema_of(list[Tree], known) == {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}
    assert known["Tree"] == {
        "description": "A tree.",
        "type": "object",
        "properties": {
            "leaves": {"type": "array", "items": {"$ref": "#/components/schemas/Leaf"}},
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "more": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["leaves"],
        "additionalProperties": False,
    }
    assert known["Leaf"]["properties"] == {"size": {"type": "number"}, "colour": {"enum": ["green", "red"]}}
    assert known["Leaf"]["required"] == ["size"]


def test_two_types_of_one_name_are_not_taken_for_each_other() -> None:
    known: dict[str, Any] = {}
    schema_of(Tree, known)
    schema_of(list[Tree], known)
    other: Any = dataclass(type("Tree", (), {"__annotations__": {"height": "float"}}))
    with pytest.raises(ValueError, match="two types are called Tree"):
        schema_of(other, known)


def test_routes_that_do_not_describe_themselves_are_not_described() -> None:
    assert list(document([Route("/page", lambda request: None)])["paths"]) == [ADDRESS]
