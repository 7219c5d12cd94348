"""Who may ask, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from bayes_merger.web.answers import writing
from bayes_merger.web.app import build_app
from bayes_merger.web.guard import kept_token

TOKEN = "a1" * 20
HERE = "http://127.0.0.1:8300"


@dataclass(frozen=True)
class Note:
    text: str
    number: float = 0.0


@writing(Note)
def take(request: Request, note: Note) -> dict[str, object]:
    return {"text": note.text, "number": note.number}


def shown(request: Request) -> Response:
    return JSONResponse({"shown": True})


def broken(request: Request) -> Response:
    raise KeyError("something secret")


ROUTES = [
    Route("/page", shown),
    Route("/rooms/{name}", shown),
    Route("/broken", broken),
    Route("/notes", take, methods=["POST"]),
]


def client(*, known: bool = True, host: str = HERE, names: tuple[str, ...] = ("localhost",)) -> TestClient:
    app = build_app(ROUTES, TOKEN, home="/page", names=names)
    headers = {"cookie": f"bayes_merger={TOKEN}"} if known else {}
    return TestClient(app, base_url=host, headers=headers, raise_server_exceptions=False, follow_redirects=False)


def test_without_the_token_nothing_is_shown() -> None:
    answer = client(known=False).get("/page")
    assert answer.status_code == 401
    assert "link that the terminal printed" in answer.json()["error"]


@pytest.mark.parametrize("given", ["", "b2" * 20, TOKEN[:-1], TOKEN + "0", "\N{SNOWMAN}", TOKEN.upper()])
def test_a_wrong_token_opens_nothing(given: str) -> None:
    stranger = client(known=False)
    assert stranger.get("/page", params={"token": given}).status_code == 401
    assert stranger.get("/page", headers=[(b"authorization", f"Bearer {given}".encode())]).status_code == 401
    assert stranger.get("/page", headers=[(b"cookie", f"bayes_merger={given}".encode())]).status_code == 401


def test_the_link_gives_a_cookie_and_leads_to_the_clean_address() -> None:
    answer = client(known=False).get("/rooms/a b?token=" + TOKEN + "&seen=1")
    assert answer.status_code == 200
    assert 'content="0;url=/rooms/a%20b?seen=1"' in answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert TOKEN in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("path", ["//evil.example/", "/%22%3E%3Cscript%3E", "/%2F%2Fevil.example", "/\\evil.example"])
def test_the_link_leads_nowhere_else(path: str) -> None:
    text = client(known=False).get(f"{HERE}{path}?token={TOKEN}").text
    to = text.partition('content="0;url=')[2].partition('"')[0]
    assert to.startswith("/")
    assert not to.startswith(("//", "/\\"))
    assert "<script" not in text


def test_a_program_may_use_the_token_itself() -> None:
    program = client(known=False)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert program.get("/page", headers=bearer).status_code == 200
    assert program.post("/notes", json={"text": "x"}, headers=bearer).json() == {"text": "x", "number": 0}


@pytest.mark.parametrize("host", ["http://evil.example", "http://evil.example:8300", "http://127.0.0.1.evil.example"])
def test_a_name_that_a_web_site_may_own_is_not_answered(host: str) -> None:
    assert client(host=host).get("/page").status_code == 421


@pytest.mark.parametrize(
    "host", ["http://localhost:9000", "http://192.0.2.7:8300", "http://[::1]:8300", "http://gpu-box"]
)
def test_addresses_and_given_names_are_answered(host: str) -> None:
    assert client(host=host, names=("localhost", "gpu-box")).get("/page").status_code == 200


@pytest.mark.parametrize("header", [b"", b"[", b"a@b", b"\xff", b"localhost:x", b"127.0.0.1, evil.example"])
def test_a_broken_host_is_no_fault_of_ours(header: bytes) -> None:
    assert client().get("/page", headers={b"host": header}).status_code in (200, 421)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://[", ""])
def test_another_site_changes_nothing(origin: str) -> None:
    answer = client().post("/notes", json={"text": "x"}, headers={"origin": origin})
    assert answer.status_code == 403


def test_a_page_of_ours_may_change_something() -> None:
    answer = client().post("/notes", json={"text": "x", "number": 2}, headers={"origin": HERE})
    assert answer.json() == {"text": "x", "number": 2.0}


def test_what_a_form_of_another_site_can_send_is_refused() -> None:
    forms = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    for kind in forms:
        headers = {"origin": HERE, "content-type": kind}
        assert client().post("/notes", content=b'{"text": "x"}', headers=headers).status_code == 403
    assert client().post("/notes", json={"text": "x"}).status_code == 403  # a cookie alone, without an origin


def test_a_large_body_is_refused_whether_or_not_it_says_so() -> None:
    headers = {"origin": HERE, "content-type": "application/json"}
    assert client().post("/notes", content=b" " * 100_000, headers=headers).status_code == 413
    parts = (b" " * 10_000 for _ in range(10))
    assert client().post("/notes", content=parts, headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "'text' is missing"),
        (b"[]", "JSON object"),
        (b"nonsense", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"text": 1}', "'text' must be text, not 1"),
        (b'{"text": null}', "'text' must be text"),
        (b'{"text": "x", "number": true}', "'number' must be a number"),
        (b'{"text": "x", "number": NaN}', "'number' must be a number"),
        (b'{"text": "x", "number": 1e999}', "'number' must be a number"),
        (b'{"text": "x", "text": "y"}', "given twice"),
        (b'{"text": "x", "numbr": 1}', "did you mean number?"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"text": "\\ud800"}', "half of a character"),
    ],
)
def test_what_is_not_understood_is_told_in_one_line(body: bytes, told: str) -> None:
    headers = {"origin": HERE, "content-type": "application/json"}
    answer = client().post("/notes", content=body, headers=headers)
    assert answer.status_code == 422
    assert told in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_fault_of_ours_shows_nothing_of_it() -> None:
    answer = client().get("/broken", headers={"accept": "text/html"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "A fault of ours" in answer.text


@pytest.mark.parametrize("path", ["/page", "/nowhere", "/broken", "/assets/style.css", "/assets/..%2f..%2fapp.py"])
def test_every_answer_carries_the_rules_for_browsers(path: str) -> None:
    headers = client().get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_only_files_of_the_page_itself_are_served() -> None:
    someone = client(known=False)
    assert someone.get("/assets/style.css").headers["content-type"].startswith("text/css")
    for path in (
        "/assets/../guard.py",
        "/assets/%2e%2e/guard.py",
        "/assets/guard.py",
        "/assets//etc/passwd",
        "/assets/",
    ):
        assert client().get(path).status_code == 404


def test_the_token_stays_the_same_and_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path))
    token = kept_token()
    assert len(token) == 40
    assert kept_token() == token
    file = tmp_path / "web-token"
    assert file.stat().st_mode & 0o077 == 0
    file.chmod(0o644)  # others may have read it
    assert kept_token() != token
    file.write_text("short")
    assert len(kept_token()) == 40
