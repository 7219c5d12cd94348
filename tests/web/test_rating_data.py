"""What the scoring page is made of, asked for as a program would, and as nobody should."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.web.app import build_app
from bayes_merger.web.pages.rating import SAYINGS, RatingPages, only
from tests.web.scenery import paint
from tests.web.serving import TOKEN
from tests.web.studies import a_study

API = "/api/v1/studies/study/sitting"
OURS = {"origin": "http://127.0.0.1:8300", "authorization": f"Bearer {TOKEN}"}


def client_of(folder: RunFolder) -> TestClient:
    app = build_app(RatingPages(only(Sitting(folder, "ann"))).routes(), TOKEN, home="/rate/study")
    return TestClient(app, base_url="http://127.0.0.1:8300", headers=OURS, raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    folder, _ = a_study(tmp_path, waiting=2, payloads=2)
    with client_of(folder) as client:
        yield client


def waiting(client: TestClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(API).json()["trials"]
    return found


def test_a_trial_is_rated_and_confirmed(client: TestClient) -> None:
    first, second = waiting(client)
    for picture in first["pictures"]:
        assert set(picture) == {"id", "payload", "prompt", "width", "height", "score", "best"}
        answer = client.post(f"{API}/ratings", json={"id": picture["id"], "score": 6.5, "ms": 800})
        assert answer.status_code == 200
    assert [picture["score"] for picture in waiting(client)[0]["pictures"]] == [6.5, 6.5]
    state = client.post(f"{API}/confirmations", json={"id": first["id"]}).json()
    assert ([trial["id"] for trial in state["trials"]], state["done"]) == ([second["id"]], 1)


def test_what_is_closed_cannot_be_rated(client: TestClient) -> None:
    first = waiting(client)[0]
    for picture in first["pictures"]:
        client.post(f"{API}/ratings", json={"id": picture["id"], "score": 6})
    client.post(f"{API}/confirmations", json={"id": first["id"]})
    answer = client.post(f"{API}/ratings", json={"id": first["pictures"][0]["id"], "score": 1})
    assert answer.status_code == 409
    assert "closed in the meantime" in answer.json()["error"]


@pytest.mark.parametrize(
    ("address", "body", "told"),
    [
        ("ratings", {"id": "0" * 16, "score": 5}, "no such picture"),
        ("ratings", {"id": "first", "score": 11}, "not between 0 and 10"),
        ("ratings", {"id": "first", "score": -0.5}, "not between 0 and 10"),
        ("ratings", {"id": "first", "score": "5"}, "must be a number"),
        ("confirmations", {"id": "trial"}, "have no score yet"),
        ("undo", {"all": True}, "no field 'all'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    client: TestClient, address: str, body: dict[str, Any], told: str
) -> None:
    trial = waiting(client)[0]
    names = {"first": trial["pictures"][0]["id"], "trial": trial["id"]}
    answer = client.post(
        f"{API}/{address}", json={**body, **({"id": names.get(body["id"], body["id"])} if "id" in body else {})}
    )
    assert answer.status_code == 422
    assert told in answer.json()["error"]
    assert waiting(client)[0]["pictures"][0]["score"] is None


def test_nothing_is_sent_twice(client: TestClient) -> None:
    version = client.get(API).json()["version"]
    assert client.get(API, params={"version": version}).status_code == 204
    client.post(f"{API}/ratings", json={"id": waiting(client)[0]["pictures"][0]["id"], "score": 3})
    assert client.get(API, params={"version": version}).status_code == 200


def test_another_study_is_not_there(client: TestClient) -> None:
    for path in ("/rate/other", "/rate/%2e%2e%2fstudy", API.replace("study/", "other/"), "/rate/study/"):
        assert client.get(path).status_code == 404


def test_a_preview_is_small_and_the_whole_picture_says_nothing_about_itself(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=1)
    paint(folder, 800)
    with client_of(folder) as client:
        address = f"{API}/pictures/{waiting(client)[0]['pictures'][0]['id']}"
        preview, whole = client.get(address), client.get(address, params={"size": "whole"})
    assert preview.headers["content-type"] == "image/webp"
    assert "immutable" in preview.headers["cache-control"]
    assert max(Image.open(io.BytesIO(preview.content)).size) == 768
    shown = Image.open(io.BytesIO(whole.content))
    assert max(shown.size) == 800
    assert shown.text == {}  # type: ignore[attr-defined]
    with Image.open(next(folder.path.glob("images/*/*.png"))) as drawn:
        assert drawn.text != {}  # type: ignore[attr-defined]
        assert drawn.tobytes() == shown.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


SIGNATURE = b"\x89PNG\r\n\x1a\n"
BOMB = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", SIGNATURE, BOMB, SIGNATURE + b"\xff" * 100, b"GIF89a" + bytes(100)],
    ids=["empty", "text", "signature", "bomb", "noise", "gif"],
)
def test_a_broken_picture_breaks_nothing_else(tmp_path: Path, content: bytes) -> None:
    folder, _ = a_study(tmp_path, payloads=2)
    with client_of(folder) as client:
        broken, _ = waiting(client)[0]["pictures"]
        (folder.path / "images/0000/p0-0.png").write_bytes(content)
        assert client.get(f"{API}/pictures/{broken['id']}").status_code == 404
        assert client.get(f"{API}/pictures/{broken['id']}?size=whole").status_code in (200, 404)
        assert client.get(API).status_code == 200
    with client_of(folder) as client:  # one that sees it broken at first sight
        assert client.get(API).status_code == 200


def test_a_picture_that_leads_elsewhere_is_not_shown(tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path / "runs", payloads=1)
    outside = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    with client_of(folder) as client:
        id = waiting(client)[0]["pictures"][0]["id"]
        inside = folder.path / "images/0000/p0-0.png"
        inside.unlink()
        inside.symlink_to(outside)
        assert client.get(f"{API}/pictures/{id}").status_code == 404
        inside.unlink()
        os.mkfifo(inside)
        assert client.get(f"{API}/pictures/{id}").status_code == 404
        assert client.get(f"{API}/pictures/{id}?size=whole").status_code == 404


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder, _ = a_study(tmp_path_factory.mktemp("fuzzed"), waiting=2, payloads=2)
    with client_of(folder) as client:
        yield client


TEXT = st.text(max_size=30)
DATA = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KNOWN = st.sampled_from(["first", "trial", "", "0" * 16])  # ids that are there among those that are not
BODIES = st.fixed_dictionaries(
    {}, optional={"id": KNOWN | DATA, "score": st.floats() | st.integers(-1, 11) | DATA, "ms": DATA, "side": DATA}
)


@settings(max_examples=60, deadline=None)
@given(address=st.sampled_from([name for name, *_ in SAYINGS]), body=BODIES | DATA)
def test_no_body_causes_a_fault(fuzzed: TestClient, address: str, body: Any) -> None:
    if isinstance(body, dict) and body.get("id") in ("first", "trial") and (trials := waiting(fuzzed)):
        body = {**body, "id": trials[0]["id"] if body["id"] == "trial" else trials[0]["pictures"][0]["id"]}
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    answer = fuzzed.post(f"{API}/{address}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 409, 413, 422), answer.text
    assert isinstance(answer.json(), dict)


SEGMENTS = st.lists(st.sampled_from(["api", "v1", "studies", "study", "sitting", "pictures", "rate", "assets", "..", "%2e"]) | st.text(max_size=8), max_size=7)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    segments=SEGMENTS,
    query=st.binary(max_size=20),
    content=st.binary(max_size=40),
)
def test_no_address_causes_a_fault(
    fuzzed: TestClient, method: str, segments: list[str], query: bytes, content: bytes
) -> None:
    path = "/" + "/".join(segment if segment in ("..", "%2e") else quote(segment, safe="") for segment in segments)
    address = f"http://127.0.0.1:8300{path}?{quote(query)}"
    answer = fuzzed.request(
        method, address, content=content, headers={"content-type": "application/json"}, follow_redirects=False
    )
    assert answer.status_code in (200, 204, 307, 401, 404, 405, 422), (address, answer.text)
