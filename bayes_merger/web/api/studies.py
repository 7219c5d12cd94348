"""Studies as data, read only: all in a line each, one with everything, its pictures by opaque ids."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.album import opaque
from bayes_merger.web.answers import NotFound
from bayes_merger.web.pictures import KEPT, Previews, whole
from bayes_merger.web.shelf import Seen, Shelf, address

THUMBNAIL = 320
"""Pixels of a small picture's longer side."""


class StudyData:
    """What the study browser shows, and any program may ask for.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._previews = {"small": Previews(512, THUMBNAIL), "large": Previews()}

    def routes(self) -> list[Route]:
        """What the application serves."""
        api = "/api/v1/studies"
        return [
            Route(api, self.all),
            Route(api + "/{study}", self.summary),
            Route(api + "/{study}/trials", self.trials),
            Route(api + "/{study}/report", self.report),
            Route(api + "/{study}/thumbnail", self.thumbnail),
            Route(api + "/{study}/pictures/{id}", self.picture),
        ]

    def all(self, request: Request) -> Response:
        """All studies, the one touched last first; 204 if that is the version which is known already."""
        folders = self._shelf.folders()
        version = opaque(*map(self._shelf.version, folders))
        if request.query_params.get("version") == version:
            return Response(status_code=204)
        return _json({"version": version, "studies": list(map(self._line, folders))})

    def summary(self, request: Request) -> Response:
        """One study: trials, best, weights, the verdict, the closing table; the same as ``show NAME --json``."""
        return _json(self._seen(request).summary)

    def trials(self, request: Request) -> Response:
        """Its trials, with weights, scores and what the model believes of them."""
        return _json(self._seen(request).trials)

    def report(self, request: Request) -> Response:
        """Its report in parts, as HTML; 204 if that is the version which is known already."""
        seen = self._seen(request)
        if request.query_params.get("version") == seen.version:
            return Response(status_code=204)
        names = ("version", "running", "drawing", "waiting", "newest", "parts")
        counts = {"trials": seen.summary["trials"]}
        return _json({name: getattr(seen, name) for name in names} | counts)

    def thumbnail(self, request: Request) -> Response:
        """A small picture of its best merge."""
        path = self._shelf.thumbnail(self._folder(request))
        if path is None:
            raise NotFound("this study has no picture")
        return self._shown(path, "small")

    def picture(self, request: Request) -> Response:
        """A picture that its report shows; ``?size=`` ``small``, ``large`` or ``whole``, which is every pixel of it."""
        path = self._seen(request).pictures.get(request.path_params["id"])
        if path is None:
            raise NotFound("there is no such picture, or it is not shown any more")
        return self._shown(path, request.query_params.get("size", "small"))

    def _shown(self, path: Path, size: str) -> Response:
        if size == "whole":
            return Response(whole(path), media_type="image/png", headers=KEPT)
        if size not in self._previews:
            raise NotFound("size: must be small, large or whole")
        return Response(self._previews[size].of(path), media_type="image/webp", headers=KEPT)

    def _line(self, folder: RunFolder) -> dict[str, Any]:
        found = self._shelf.overview(folder).to_json()
        picture = f"{address(folder)}/thumbnail?version={self._shelf.version(folder)}"
        return found | {"thumbnail": picture if self._shelf.thumbnail(folder) else None}

    def _folder(self, request: Request) -> RunFolder:
        return self._shelf.folder(request.path_params["study"])

    def _seen(self, request: Request) -> Seen:
        return self._shelf.seen(self._folder(request))


def _json(data: Any) -> JSONResponse:
    return JSONResponse(_finite(data))


def _finite(data: Any) -> Any:
    """Plain data in which what JSON has no number for is null: a stored study may hold anything."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
