"""The scoring page: what waits for a person, as data; pictures by opaque ids; what the person says, into the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bayes_merger.errors import ConfigError
from bayes_merger.run.rating.sitting import Picture, Sitting, Trial
from bayes_merger.web.answers import NotFound, writing
from bayes_merger.web.pictures import Previews, without_texts
from bayes_merger.web.templates import page

AHEAD = 3
"""Trials that a page is told of; more would only be loaded too early."""

KEPT = {"cache-control": "private, max-age=86400, immutable"}
"""Of a picture: its id stands for it alone."""


@dataclass(frozen=True)
class Rate:
    """A score of 0 to 10 for a picture, or for a trial where all its pictures get one; ``ms`` it took to give."""

    id: str
    score: float
    ms: int | None = None


@dataclass(frozen=True)
class About:
    """A trial, by its id."""

    id: str


@dataclass(frozen=True)
class Nothing:
    """No fields."""


class RatingPages:
    """The page of every study that waits for a person, and what it is made of.

    Args:
        sitting_of: the sitting at a study, by the study's name; :class:`NotFound` where there is none.
    """

    def __init__(self, sitting_of: Callable[[str], Sitting]) -> None:
        self._sitting_of = sitting_of
        self._previews = Previews()
        self._best: dict[str, Best] = {}

    def routes(self) -> list[Route]:
        """What the application serves."""
        api = "/api/v1/studies/{study}/sitting"
        return [
            Route("/rate/{study}", self.show),
            Route(api, self.state),
            Route(api + "/pictures/{id}", self.picture),
            *(Route(f"{api}/{name}", self._saying(kind, act), methods=["POST"]) for name, kind, act in SAYINGS),
        ]

    def show(self, request: Request) -> Response:
        """The page itself; it asks for all the rest."""
        folder = self._sitting(request).folder
        api = f"/api/v1/studies/{quote(folder.name)}/sitting"
        return page("rate.html", study=folder.name, typed=folder.typed, api=api)

    def state(self, request: Request) -> Response:
        """What there is to rate and how far the study is; 204 if that is the version which is known already."""
        found = self._described(self._sitting(request))
        if request.query_params.get("version") == found["version"]:
            return Response(status_code=204)
        return JSONResponse(found)

    def picture(self, request: Request) -> Response:
        """A picture: a preview, or with ``?size=whole`` every pixel of it."""
        try:
            path = self._sitting(request).path_of(request.path_params["id"])
        except ConfigError as error:
            raise NotFound(str(error)) from error
        if request.query_params.get("size") == "whole":
            return Response(without_texts(path), media_type="image/png", headers=KEPT)
        return Response(self._previews.of(path), media_type="image/webp", headers=KEPT)

    def _sitting(self, request: Request) -> Sitting:
        return self._sitting_of(request.path_params["study"])

    def _saying(self, kind: type[Any], act: Callable[[Sitting, Any], dict[str, Any] | None]) -> Callable[..., Any]:
        def answer(request: Request, body: Any) -> dict[str, Any]:
            sitting = self._sitting(request)
            more = act(sitting, body) or {}
            return self._described(sitting) | more

        return writing(kind)(answer)

    def _described(self, sitting: Sitting) -> dict[str, Any]:
        """A sitting as data: its state and the first trials that wait."""
        state, trials = sitting.state(), sitting.trials()[:AHEAD]
        known = self._best.get(sitting.folder.name)
        if known is None or known.done != state.done:
            known = self._best[sitting.folder.name] = Best(sitting, state.done)
        return asdict(state) | {"trials": [_trial(trial, known) for trial in trials]}


class Best:
    """What pictures are compared with, while no other trial is rated."""

    def __init__(self, sitting: Sitting, done: int) -> None:
        self.done = done
        self._sitting = sitting
        self._found: dict[str, str | None] = {}

    def of(self, picture: Picture) -> str | None:
        """The id of the best merge's picture of the same prompt and seed; None before there is one."""
        if picture.id not in self._found:
            best = self._sitting.best_picture(picture.id) if self.done else None
            self._found[picture.id] = best.id if best else None
        return self._found[picture.id]


def _trial(trial: Trial, best: Best) -> dict[str, Any]:
    names = ("id", "unit", "score", "later")
    pictures = [_picture(one) | {"best": best.of(one)} for one in trial.pictures]
    return {name: getattr(trial, name) for name in names} | {"pictures": pictures}


def _picture(one: Picture) -> dict[str, Any]:
    """All of a picture that may be known; its path has the trial's number in it."""
    return {name: getattr(one, name) for name in ("id", "payload", "prompt", "width", "height", "score")}


SAYINGS: list[tuple[str, type[Any], Callable[[Sitting, Any], dict[str, Any] | None]]] = [
    ("ratings", Rate, lambda sitting, said: sitting.rate(said.id, said.score, said.ms)),
    ("undo", Nothing, lambda sitting, said: {"undone": sitting.undo()}),
    ("delays", About, lambda sitting, said: sitting.later(said.id)),
    ("voids", About, lambda sitting, said: sitting.void(said.id)),
    ("confirmations", About, lambda sitting, said: sitting.confirm(said.id)),
]
"""Address, body and deed of everything that a person can say; the answer is the state after it."""
