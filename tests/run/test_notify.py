"""What an address of the person's is told, by a real server; and what goes wrong with it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from bayes_merger.errors import BayesMergerError, ConfigError, Interrupted, Paused
from bayes_merger.run.notify import Telling, check_address, telling
from bayes_merger.run.progress import TrialReport
from bayes_merger.testing.progress import RecordingReporter


class Server(HTTPServer):
    heard: list[dict[str, Any]]
    status: int


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.headers["content-type"] == "application/json"
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.server.status)
        self.send_header("location", "http://127.0.0.1:9/")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def listening(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address, and what it has heard."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.heard, server.status = [], status
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook?key=secret", server.heard
        finally:
            server.shutdown()
            thread.join()


def report(number: int, value: float | None = None, *, improved: bool = False) -> TrialReport:
    return TrialReport(number, number + 1, 20, value, 7.25, improved, {"laion": 6.0}, None, 1.0)


def test_what_is_told_of_a_run_that_ends_well() -> None:
    with listening() as (address, heard), telling(RecordingReporter(), "eye", address) as progress:
        progress.trial(report(3, 7.25, improved=True))
        progress.step("drawing", 1, 4)
        progress.step("waiting for your ratings of 2 trials")
        progress.step("waiting for your ratings of 3 trials")
        progress.step("drawing", 2, 4)
        progress.step("waiting for your comparisons")
        progress.trial(report(4))
    assert [(one["event"], one["text"]) for one in heard] == [
        ("best", "eye: new best, 7.250 points at trial 3; 4 of 20 trials done"),
        ("waiting", "eye: waiting for your ratings of 2 trials"),
        ("waiting", "eye: waiting for your comparisons"),
        ("done", "eye: is done after 5 of 20 trials, best 7.250 points"),
    ]
    assert all(set(one) == {"event", "study", "text", "content"} for one in heard)
    assert all((one["study"], one["content"]) == ("eye", one["text"]) for one in heard)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BayesMergerError("/home/ann/a secret prompt"), [("failed", "eye: has failed; its log says why")]),
        (KeyError("a fault"), [("failed", "eye: has failed; its log says why")]),
        (Paused("no terminal"), [("waiting", "eye: has stopped and waits for your ratings")]),
        (Interrupted("Ctrl-C"), []),
        (KeyboardInterrupt(), []),
        (None, []),  # nothing was drawn
    ],
)
def test_what_is_told_of_how_a_run_ends(error: BaseException | None, told: list[tuple[str, str]]) -> None:
    def run(address: str) -> None:
        with telling(RecordingReporter(), "eye", address):
            if error:
                raise error

    with listening() as (address, heard):
        if error:
            with pytest.raises(type(error)):
                run(address)
        else:
            run(address)
    assert [(one["event"], one["text"]) for one in heard] == told


def test_a_new_best_is_told_at_most_once_in_ten_minutes_and_the_latest_then() -> None:
    seconds = iter([0.0, 1.0, 599.0, 599.5, 600.0])
    told: list[str] = []
    progress = Telling(RecordingReporter(), "eye", lambda event, text: told.append(text), lambda: next(seconds))
    for number, value in enumerate((5.0, 6.0, 7.0)):
        progress.trial(report(number, value, improved=True))
    progress.trial(report(3, 1.0))
    progress.trial(report(4, 1.0))
    progress.trial(report(5, 1.0))  # asks no clock: there is nothing to tell
    assert told == [
        "eye: new best, 5.000 points at trial 0; 1 of 20 trials done",
        "eye: new best, 7.000 points at trial 2; 5 of 20 trials done",
    ]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_address_that_refuses_stops_nothing_and_is_said_once_without_its_secret(status: int) -> None:
    reporter = RecordingReporter()
    with listening(status) as (address, heard), telling(reporter, "eye", address) as progress:
        progress.step("waiting for your ratings of 1 trial")
        progress.trial(report(1, 5.0, improved=True))
    assert len(heard) == 3
    (line,) = reporter.lines
    assert line.startswith("notify.webhook: 127.0.0.1 was not told (")
    assert "secret" not in line
    assert len(reporter.reports) == 1


def test_nobody_there_and_no_http_stop_nothing() -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{other.getsockname()[1]}"  # bound, and nobody listens
        nobody = RecordingReporter()
        with telling(nobody, "eye", address) as progress:
            progress.trial(report(1, 5.0, improved=True))
        other.listen()
        thread = threading.Thread(target=_chatter, args=[other, 2])
        thread.start()
        no_http = RecordingReporter()
        with telling(no_http, "eye", address) as progress:
            progress.trial(report(1, 5.0, improved=True))
        thread.join()
    for reporter in (nobody, no_http):
        assert [line.partition(" was not told")[0] for line in reporter.lines] == ["notify.webhook: 127.0.0.1"]


def _chatter(listening: socket.socket, times: int) -> None:
    for _ in range(times):
        with listening.accept()[0] as talking:
            talking.recv(65536)
            talking.sendall(b"this is no HTTP at all\r\n\r\n")


@pytest.mark.parametrize("address", ["https://hooks.example/T0/B0/x?y=1", "http://127.0.0.1:8080", "http://[::1]/x"])
def test_addresses(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address", ["ntfy.example/x", "file:///etc/passwd", "ftp://x/y", "http://", "http://[", "http://a b/", "http://x:99999/", "http://x/\n"]
)  # fmt: skip
def test_what_is_no_address_is_said_at_the_start(address: str) -> None:
    with pytest.raises(ConfigError, match=r"notify\.webhook: '.*' is no address; give one like  https://"):
        check_address(address)
