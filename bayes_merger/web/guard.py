"""Who may ask, and from where: everything that every request has to pass, and every answer to carry.

A page on the loopback address is open to every program of the machine and, through the browser, to every web site
(by its address, or by a name of its own that leads here: DNS rebinding). So whoever asks needs the token, which the
terminal prints in a link; a browser has it in a cookie from then on. The host must be this machine by a name that no
web site can own, and what changes anything must be JSON from a page of ours, or from a program that has the token.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bayes_merger.paths import cache_folder
from bayes_merger.web.answers import refusal
from bayes_merger.web.assets import ASSETS
from bayes_merger.web.templates import page

COOKIE = "bayes_merger"
TOKEN = re.compile(r"[0-9a-f]{40}")

HANDED = "BAYES_MERGER_TOKEN"
"""Environment variable: the token that a process is to take."""

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every answer."""


def kept_token() -> str:
    """This person's token, made at the first call; it stays the same, so that an open page survives its server.

    It lies in the cache folder, for its owner alone, and not in a study's, which people hand on. A run hands it to the
    process of its page in an environment variable.
    """
    if TOKEN.fullmatch(given := os.environ.get(HANDED, "")):
        return given
    path = cache_folder() / "web-token"
    with suppress(OSError, ValueError):
        found = path.read_text(encoding="ascii")
        if TOKEN.fullmatch(found) and (os.name != "posix" or not path.stat().st_mode & 0o077):
            return found
    token = secrets.token_hex(20)
    with suppress(OSError):  # a server without a place to keep it has one of its own
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        new.touch(mode=0o600)
        new.write_text(token, encoding="ascii")
        new.replace(path)
    return token


def local_names(host: str) -> frozenset[str]:
    """The names under which a server that listens at ``host`` may be asked for, besides addresses."""
    names = {"localhost"} if is_loopback(host) else {"localhost", socket.gethostname(), f"{socket.gethostname()}.local"}
    return frozenset(name.lower() for name in names)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """The application behind its door.

    Args:
        app: answers what passes.
        token: that opens it.
        names: host names under which it may be asked for. An address needs no name: no web site can own one.
    """

    def __init__(self, app: ASGIApp, token: str, names: Collection[str] = ("localhost",)) -> None:
        self._app = app
        self._token = token
        self._names = frozenset(name.lower() for name in names)
        self._tickets: set[str] = set()

    def ticket(self) -> str:
        """Opens once, in the place of the token: for a command line, which other people of the machine can read."""
        self._tickets.add(made := secrets.token_hex(20))
        return made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it to the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._refused(scope) or self._app
            await answer(scope, receive, _with_headers(send))
        else:  # a web socket
            await send({"type": "websocket.close", "code": 1008})

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))
        if not (host in self._names or _is_address(host)):
            return refusal(
                headers, 421, "this server is not known by that name; use the address that the terminal shows"
            )
        if scope["method"] in ("GET", "HEAD"):
            if scope["path"].removeprefix("/assets/") in ASSETS:
                return None  # the look of the page that asks for the token
            if link := self._link(scope):
                return self._entrance(link)
        if not self._known(headers):
            return refusal(headers, 401, "open the link that the terminal printed; it has the key to this page in it")
        if scope["method"] not in ("GET", "HEAD") and not self._ours(headers):
            return refusal(headers, 403, "only pages of this server, and programs with its token, may change anything")
        return None

    def _link(self, scope: Scope) -> str:
        """Where a link with the token leads; empty if this is none."""
        given = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=20)
        keys = {value for key, value in given if key == "token"}
        if not any(map(self._is_token, keys)) and not keys & self._tickets:
            return ""
        self._tickets -= keys
        rest = urlencode([(key, value) for key, value in given if key != "token"])
        # Several slashes at the start would lead to another host
        return "/" + quote(scope["path"]).lstrip("/") + (f"?{rest}" if rest else "")

    def _entrance(self, to: str) -> Response:
        """A page that gives the cookie and goes on to the clean address.

        No redirect: after a click on another site, browsers withhold SameSite=Strict cookies from where that leads.
        """
        answer = page("entrance.html", to=to)
        answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", max_age=365 * 86400)
        return answer

    def _known(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(given.strip())
        cookies: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            cookies.load(headers.get("cookie", ""))
        return COOKIE in cookies and self._is_token(cookies[COOKIE].value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    @staticmethod
    def _ours(headers: Headers) -> bool:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return False
        if "origin" in headers:
            return _netloc(headers["origin"]) == headers.get("host", "").lower()
        return "authorization" in headers  # no web site can make a browser send it


def _host(header: str) -> str:
    """The host of a Host header without its port; empty if it is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending
