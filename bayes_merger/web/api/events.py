"""Server-sent events: a page is told what has changed and does not have to ask.

Each connection remembers what it has told, so nothing is told twice; whoever connects again is told everything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bayes_merger.errors import UserError
from bayes_merger.run.control import run_state, stage_of, steps_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.live_preview import previews, watch
from bayes_merger.run.rating.album import opaque
from bayes_merger.web.answers import NotFound, finite
from bayes_merger.web.api.operations import Operation
from bayes_merger.web.pictures import Sizes
from bayes_merger.web.queue import Queue
from bayes_merger.web.shelf import Seen, Shelf, picture_id

PACE = 0.5
"""Seconds between two looks at what goes on."""

SILENCE = 15.0
"""Seconds after which a connection that has nothing to tell shows that it lives."""

ROWS = 100
"""Rows of a table in one event: a page that reads thousands at once stands still."""

STREAM = "text/event-stream"

WHICH = {"id": {"type": "string", "description": "One of the `previews`; the first without it."}}

Line = Callable[[RunFolder], dict[str, Any]]


class Events:
    """What goes on, as it happens.

    Args:
        shelf: where the studies are.
        line: a study as one line of all studies.
        queue: of the runs that wait.
        pace: seconds between two looks.
    """

    def __init__(self, shelf: Shelf, line: Line, queue: Queue, pace: float = PACE) -> None:
        self._shelf, self._line, self._queue, self._pace = shelf, line, queue, pace
        self._previews = Sizes()

    def routes(self) -> list[Operation]:
        """What the application serves."""
        study = "/api/v1/studies/{study}"
        return [
            Operation("/api/v1/events", self.all, STREAM),
            Operation(study + "/events", self.one, STREAM),
            Operation(study + "/preview", self.preview, "image/webp", WHICH),
        ]

    async def all(self, _: Request) -> Response:
        """All studies, whenever one changes, as server-sent events.

        `studies` has them as `GET /studies` does, and in `queue` the runs that wait, as `GET /queue` does; `wrong` says
        in `error` why they cannot be read.
        """
        return _stream(self.of_all())

    async def one(self, request: Request) -> Response:
        """What goes on in a study, as server-sent events.

        `now` has the run's `state`, the `steps` of its workers, after the search the `stage` that it is in (the final
        round), the trials that it has `finished` of its `budget`, and the ids of its `previews`. `report` has the
        `parts` of its report that have changed, as HTML, and of the table of trials the `rows` that have, a hundred at
        a time; with it go `drawing`, the numbers of the trials that are drawn, and `waiting`, how many wait for a
        person. `wrong` says in `error` why it cannot be read.
        """
        folder = await run_in_threadpool(self._shelf.folder, request.path_params["study"])
        return _stream(self.of(folder))

    def preview(self, request: Request) -> Response:
        """The pictures that are drawn now, as one, or those of the trial that was drawn last."""
        folder, wanted = self._shelf.folder(request.path_params["study"]), request.query_params.get("id")
        for path in previews(folder):
            if wanted in (None, picture_id(path)):
                return self._previews.answer(path, "large")
        raise NotFound("there is no such picture of what is drawn, or it is an older one")

    async def of_all(self) -> AsyncIterator[str]:
        """The events of all studies, for ever."""
        known, told = "", _Told()
        while True:
            try:
                known, lines = await run_in_threadpool(self._lines, known)
                yield told.event("studies", lines)
            except UserError as error:
                yield told.event("wrong", {"error": str(error)})
            yield told.silence(self._pace)
            await asyncio.sleep(self._pace)

    async def of(self, folder: RunFolder) -> AsyncIterator[str]:
        """The events of one study, for ever."""
        told, report = _Told(), _Report()
        reading: asyncio.Task[Seen] | None = None
        while True:
            try:
                yield told.event("now", await run_in_threadpool(self._now, folder))
                reading = reading or asyncio.create_task(run_in_threadpool(self._shelf.seen, folder))
                if reading.done():  # it may take seconds, in which the step goes on
                    done, reading = reading, None
                    for changes in report.changes(done.result()):
                        yield told.event("report", changes)
            except UserError as error:
                yield told.event("wrong", {"error": str(error)})
            yield told.silence(self._pace)
            await asyncio.sleep(self._pace)

    def _lines(self, known: str) -> tuple[str, dict[str, Any]]:
        """The version of all studies and, if it is another one than is known, a line of each."""
        folders = self._shelf.folders()
        waiting = self._queue.lines()
        version = opaque(*map(self._shelf.version, folders), waiting)
        return version, {} if version == known else {"studies": list(map(self._line, folders)), "queue": waiting}

    def _now(self, folder: RunFolder) -> dict[str, Any]:
        seen, state = self._shelf.overview(folder), run_state(folder)
        if state:
            watch(folder)
        return {
            "state": state or seen.state,
            "steps": steps_of(folder),
            "stage": stage_of(folder),
            "finished": seen.finished,
            "budget": seen.budget,
            "previews": list(map(picture_id, previews(folder))),
        }


class _Told:
    """What a connection has told."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._silent = 0.0

    def event(self, name: str, data: Mapping[str, Any]) -> str:
        """An event as text; empty if nothing has changed since the last one of its name."""
        text = json.dumps(finite(data))
        if text in ("{}", self._known.get(name)):
            return ""
        self._known[name] = text if len(text) < 65_536 else ""
        if name != "wrong":
            self._known.pop("wrong", None)
        self._silent = 0.0
        return f"event: {name}\ndata: {text}\n\n"

    def silence(self, seconds: float) -> str:
        """A comment when nothing was told for long."""
        self._silent += seconds
        if self._silent < SILENCE:
            return ""
        self._silent = 0.0
        return ":\n\n"


class _Report:
    """What of a report has been told."""

    def __init__(self) -> None:
        self._version = ""
        self._known: dict[object, int] = {}

    def changes(self, seen: Seen) -> Iterator[dict[str, Any]]:
        """What has changed since the last look, some rows at a time; nothing of a version that is known."""
        if seen.version == self._version:
            return
        self._version = seen.version
        parts = {name: html for name, html in seen.parts.items() if self._is_new(name, html)}
        rows = [(str(trial), html) for trial, html in seen.rows.items() if self._is_new(trial, html)]
        for at in range(0, len(rows) or 1, ROWS):
            some = dict(rows[at : at + ROWS])
            yield {"parts": {} if at else parts, "rows": some, "drawing": seen.drawing, "waiting": seen.waiting}

    def _is_new(self, name: object, html: str) -> bool:
        before, self._known[name] = self._known.get(name), hash(html)
        return before != self._known[name]


def _stream(events: AsyncIterator[str]) -> Response:
    async def told() -> AsyncIterator[str]:
        async for event in events:
            if event:
                yield event

    return StreamingResponse(told(), media_type=STREAM)
