"""A line to one address of the person's, for those who are not looking: done, failed, waiting for you, a new best.

Any address that takes JSON by POST will do: Slack and Mattermost show its ``text``, Discord its ``content``, programs
go by ``event``. It holds the study's name and numbers; no pictures, no prompts, no paths. The address is often a secret
itself, so it is a setting of the machine's and no study keeps it. Nothing that goes wrong with it stops a run.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from bayes_merger.errors import ConfigError, Interrupted, Paused, one_line, printable
from bayes_merger.run.progress import FOR_YOU, ProgressReporter, TrialReport

PAUSE = 600.0
"""Seconds between two new bests that are told."""

PATIENCE = 10.0
"""Seconds that an address may take to answer, and that a run waits for it at its end."""

Send = Callable[[str, str], None]
"""Tells an event (``done``, ``failed``, ``waiting``, ``best``), in words."""


def check_address(address: str) -> str:
    """An address as given, if something can be sent there.

    Raises:
        ConfigError: nothing can.
    """
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and address.isprintable()
    except ValueError:
        right = False
    if not right or " " in address:
        shown = printable(address, longest=40)
        raise ConfigError(f"notify.webhook: '{shown}' is no address; give one like  https://ntfy.example/my-topic")
    return address


class Webhook:
    """Sends lines to an address, one after another, while the run goes on; a context manager.

    Args:
        address: checked.
        study: whose lines they are.
        note: told once if the address cannot be reached.
    """

    def __init__(self, address: str, study: str, note: Callable[[str], object]) -> None:
        self._address, self._study, self._note = address, study, note
        self._waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notifications", daemon=True)
        self._told = False

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join(PATIENCE)

    def send(self, event: str, text: str) -> None:
        """See :data:`Send`; returns at once."""
        self._waiting.put((event, text))

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            event, text = item
            data = {"event": event, "study": self._study, "text": text, "content": text}
            headers = {"Content-Type": "application/json", "User-Agent": "bayes-merger"}
            try:
                request = urllib.request.Request(self._address, json.dumps(data).encode(), headers)
                urllib.request.urlopen(request, timeout=PATIENCE).close()
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._told:
            host = urlsplit(self._address).hostname  # the rest of it may be a secret
            self._note(f"notify.webhook: {host} was not told ({one_line(error)}); the run goes on")
        self._told = True


class Telling:
    """A progress reporter that also sends what is worth a line.

    Args:
        progress: told everything as before.
        study: its name.
        send: sends a line.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(
        self, progress: ProgressReporter, study: str, send: Send, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._study, self._send, self._clock = progress, study, send, clock
        self._next = 0.0
        self._best = ""
        self._waiting = False
        self.last: TrialReport | None = None
        self.budget, self.note = progress.budget, progress.note
        self.members, self.quiet = progress.members, progress.quiet

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Pass it on; send when a person begins to be waited for."""
        self._progress.step(text, done, total)
        waits = text.startswith(FOR_YOU)
        if waits and not self._waiting:
            self._send("waiting", f"{self._study}: {text}")
        self._waiting = waits

    def trial(self, report: TrialReport) -> None:
        """Pass it on; send the best so far if it is new, at once or when the pause is over."""
        self._progress.trial(report)
        self.last = report
        if report.improved:
            self._best = f"{self._study}: new best, {report.value:.3f} points at trial {report.number}"
        if self._best and (now := self._clock()) >= self._next:
            self._send("best", f"{self._best}; {report.done} of {report.total} trials done")
            self._best, self._next = "", now + PAUSE


@contextmanager
def telling(progress: ProgressReporter, study: str, address: str) -> Iterator[ProgressReporter]:
    """The same progress reporter, which also tells an address, and how the block has ended.

    Args:
        progress: told everything as before.
        study: its name.
        address: checked.
    """
    with Webhook(address, study, progress.note) as webhook:
        told = Telling(progress, study, webhook.send)
        try:
            yield told
        except (Interrupted, KeyboardInterrupt):
            raise  # whoever did that knows
        except Paused:
            webhook.send("waiting", f"{study}: has stopped and waits for your ratings")
            raise
        except BaseException:
            webhook.send("failed", f"{study}: has failed{_so_far(told.last)}; its log says why")
            raise
        if told.last:
            webhook.send("done", f"{study}: is done{_so_far(told.last)}")


def _so_far(last: TrialReport | None) -> str:
    if last is None:
        return ""
    best = "" if last.best is None else f", best {last.best:.3f} points"
    return f" after {last.done} of {last.total} trials{best}"
