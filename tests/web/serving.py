"""The scoring page of a study: in a thread, to be quick, or as the command, to be killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.sitting import Sitting
from bayes_merger.web.app import build_app
from bayes_merger.web.pages.rating import RatingPages, only
from bayes_merger.web.serving import listen, server_of
from tests.processes import Process, program

TOKEN = "a1" * 20
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(folder: RunFolder) -> Iterator[str]:
    """The link to the page."""
    with Sitting(folder, "ann") as sitting, listen("127.0.0.1", 0) as listening:
        server = server_of(build_app(RatingPages(only(sitting)).routes(), TOKEN, home="/rate/study"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/rate/study?token={TOKEN}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


class RateCommand:
    """``bayes-merger rate`` of a study, started again at the same port as often as one likes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        with listen("127.0.0.1", 0) as free:
            self._port = free.getsockname()[1]
        self._process: Process | None = None

    def start(self) -> str:
        """The link that it prints."""
        where = ("--runs", str(self._folder.path.parent), "--port", str(self._port))
        self._process = Process(program, "rate", self._folder.name, "--no-browser", *where)
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        """As a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
