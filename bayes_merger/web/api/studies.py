"""Studies as data, read only: all in a line each, one with everything, its pictures by opaque ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.report.exports import STUDIES
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.rating.album import opaque
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.web.answers import NotFound, versioned
from bayes_merger.web.api import shapes
from bayes_merger.web.api.operations import PICTURE, SINCE, TEXT, Operation
from bayes_merger.web.pictures import Sizes
from bayes_merger.web.shelf import Seen, Shelf, address

SIZE = {"size": {"enum": ["small", "large", "whole"], "description": "`whole` is every pixel of it, as PNG."}}

PAGE = {
    "after": {"type": "integer", "minimum": 0, "description": "Only trials of a greater number."},
    "limit": {"type": "integer", "minimum": 0, "description": "At most so many; all without it."},
}


class StudyData:
    """What the study browser shows, and any program may ask for.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._previews = Sizes()

    def routes(self) -> list[Operation]:
        """What the application serves."""
        api = "/api/v1/studies"
        return [
            Operation(api, self.all, shapes.Studies, SINCE),
            Operation(api + "/{study}", self.summary, shapes.Summary, SINCE),
            Operation(api + "/{study}/trials", self.trials, list[shapes.Trial], {**SINCE, **PAGE}),
            Operation(api + "/{study}/ratings", self.ratings, list[shapes.Rating], SINCE),
            Operation(api + "/{study}/report", self.report, shapes.Report, SINCE),
            Operation(api + "/{study}/exports/{form}", self.export, TEXT),
            Operation(api + "/{study}/thumbnail", self.thumbnail, PICTURE),
            Operation(api + "/{study}/pictures/{id}", self.picture, PICTURE, SIZE),
        ]

    def all(self, request: Request) -> Response:
        """All studies, the one touched last first."""
        folders = self._shelf.folders()
        version = opaque(*map(self._shelf.version, folders))
        return versioned(request, version, lambda: {"version": version, "studies": list(map(self.line, folders))})

    def summary(self, request: Request) -> Response:
        """One study: trials, best, weights, the verdict, the closing table.

        The same as ``bayes-merger show NAME --json``.
        """
        seen = self._seen(request)
        return versioned(request, seen.version, lambda: seen.summary)

    def trials(self, request: Request) -> Response:
        """Its trials, oldest first, with weights, scores and what the model believes of them."""
        seen, after, limit = self._seen(request), number_of(request, "after"), number_of(request, "limit")
        found = [row for row in seen.trials if after is None or row["trial"] > after][:limit]
        return versioned(request, seen.version, lambda: [row_of(row) for row in found])

    def ratings(self, request: Request) -> Response:
        """What people have said of its pictures and was not taken back, oldest first; the last of a picture counts.

        A merge is an opaque id here, so that whoever rates on does not learn which one it is.
        """
        ledger = Ledger(self._folder(request).ratings)
        names = shapes.Rating.__annotations__
        return versioned(
            request,
            opaque(ledger.path, ledger.size),
            lambda: [{name: getattr(one, name) for name in names} for one in ledger.ratings()],
        )

    def report(self, request: Request) -> Response:
        """Its report in parts, as HTML; the rows of the table of trials are apart."""
        seen = self._seen(request)
        names = ("version", "running", "drawing", "waiting", "newest", "parts", "rows")
        counts = {"trials": seen.summary["trials"]}
        return versioned(request, seen.version, lambda: {name: getattr(seen, name) for name in names} | counts)

    def export(self, request: Request) -> Response:
        """Its trials in a form that other programs take: ``csv``, or ``optuna``, how Optuna opens it."""
        folder, form = self._folder(request), request.path_params["form"]
        if form not in STUDIES:
            raise NotFound(f"no form '{printable(form)}' of a study; {nearest(form, STUDIES)}")
        return PlainTextResponse(STUDIES[form][1](load(folder), folder))

    def thumbnail(self, request: Request) -> Response:
        """A small picture of its best merge."""
        path = self._shelf.thumbnail(self._folder(request))
        if path is None:
            raise NotFound("this study has no picture")
        return self._previews.answer(path, "small")

    def picture(self, request: Request) -> Response:
        """A picture that its report shows; ``?size=`` ``small``, ``large`` or ``whole``, which is every pixel of it."""
        path = self._seen(request).pictures.get(request.path_params["id"])
        if path is None:
            raise NotFound("there is no such picture, or it is not shown any more")
        return self._previews.answer(path, request.query_params.get("size", "small"))

    def line(self, folder: RunFolder) -> dict[str, Any]:
        """One of all studies."""
        found = self._shelf.overview(folder).to_json()
        picture = f"{address(folder)}/thumbnail?version={self._shelf.version(folder)}"
        return found | {"thumbnail": picture if self._shelf.thumbnail(folder) else None}

    def _folder(self, request: Request) -> RunFolder:
        return self._shelf.folder(request.path_params["study"])

    def _seen(self, request: Request) -> Seen:
        return self._shelf.seen(self._folder(request))


def number_of(request: Request, name: str) -> int | None:
    """A whole number that is asked with, 0 or more; None without one.

    Raises:
        ConfigError: it is none.
    """
    given = request.query_params.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < 10):
        raise ConfigError(f"{name}: '{printable(given, longest=40)}' is no whole number; give one like  ?{name}=20")
    return int(given)


def row_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as it is answered: where its pictures lie is nobody's business."""
    return {key: value for key, value in trial.items() if key != "images"}
