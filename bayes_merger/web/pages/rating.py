"""The scoring page: what waits for a person, as data; pictures by opaque ids; what the person says, into the ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bayes_merger.errors import ConfigError, printable
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.rating.album import Picture
from bayes_merger.run.rating.playoff import Bracket, Side
from bayes_merger.run.rating.sitting import Sitting, Trial
from bayes_merger.web.answers import NotFound, versioned, writing
from bayes_merger.web.api import shapes
from bayes_merger.web.api.operations import PICTURE, SINCE, Operation
from bayes_merger.web.pictures import KEPT, Previews
from bayes_merger.web.templates import page

AHEAD = 3
"""Trials that a page is told of; more would only be loaded too early."""

PAIRS = 8
"""Pairs of a play-off that it is told of."""


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
class Prefer:
    """Which picture of a pair is better: ``left``, ``right`` or ``neither``."""

    id: str
    side: str
    ms: int | None = None


@dataclass(frozen=True)
class Nothing:
    """No fields."""


def only(sitting: Sitting) -> Callable[[str], Sitting]:
    """One study and no other."""

    def sitting_of(study: str) -> Sitting:
        if study != sitting.folder.name:
            raise NotFound("no such study is rated here")
        return sitting

    return sitting_of


class Sittings:
    """One person's sittings at any studies, each begun when it is first asked for; a context manager.

    Args:
        folder_of: a study's folder by its name; :class:`NotFound` where there is none.
        rater: who it is.
    """

    def __init__(self, folder_of: Callable[[str], RunFolder], rater: str) -> None:
        self._folder_of, self._rater = folder_of, rater
        self._open: dict[Path, Sitting] = {}
        self._opening = threading.Lock()

    def of(self, study: str) -> Sitting:
        """The sitting at a study."""
        folder = self._folder_of(study)
        with self._opening:
            if folder.path not in self._open:
                self._open[folder.path] = Sitting(folder, self._rater)
            return self._open[folder.path]

    def __enter__(self) -> Sittings:
        return self

    def __exit__(self, *_: object) -> None:
        for sitting in self._open.values():
            sitting.close()


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
            Operation(api, self.state, shapes.Sitting, SINCE),
            Operation(api + "/pictures/{id}", self.picture, PICTURE, WHOLE),
            *(
                Operation(f"{api}/{name}", self._saying(kind, act), shapes.Sitting, about=f"{about}.\n\n{kind.__doc__}")
                for name, kind, act, about in SAYINGS
            ),
        ]

    def show(self, request: Request) -> Response:
        """The page itself; it asks for all the rest."""
        folder = self._sitting(request).folder
        api = f"/api/v1/studies/{quote(folder.name)}/sitting"
        return page("rate.html", study=folder.name, typed=folder.typed, api=api)

    def state(self, request: Request) -> Response:
        """What there is to rate and how far the study is; 204 if that is the version which is known already."""
        found = self._described(self._sitting(request))
        return versioned(request, found["version"], lambda: found)

    def picture(self, request: Request) -> Response:
        """A picture: a preview, or with ``?size=whole`` every pixel of it."""
        sitting, id = self._sitting(request), request.path_params["id"]
        try:
            if request.query_params.get("size") == "whole":
                return Response(sitting.bytes_of(id), media_type="image/png", headers=KEPT)
            return Response(self._previews.of(sitting.path_of(id)), media_type="image/webp", headers=KEPT)
        except (ConfigError, OSError) as error:
            raise NotFound("there is no such picture, or it is gone") from error

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
        playoff = None if trials else _playoff(sitting.play_off())
        return asdict(state) | {"trials": [_trial(trial, known) for trial in trials], "playoff": playoff}


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


def _playoff(bracket: Bracket | None) -> dict[str, Any] | None:
    """A play-off as data, with the first pairs that are to be compared."""
    if bracket is None:
        return None
    pairs = [
        {"id": pair.id, "left": _picture(pair.left), "right": _picture(pair.right)} for pair in bracket.open[:PAIRS]
    ]
    return {"over": bracket.over, "left": len(bracket.open), "total": len(bracket.pairs), "pairs": pairs}


def _prefer(sitting: Sitting, said: Prefer) -> None:
    if said.side not in get_args(Side):
        raise ConfigError(f"side: '{printable(said.side)}' is none of {', '.join(get_args(Side))}")
    sitting.prefer(said.id, cast(Side, said.side), said.ms)


def _picture(one: Picture) -> dict[str, Any]:
    """All of a picture that may be known; its path has the trial's number in it."""
    return {name: getattr(one, name) for name in ("id", "payload", "prompt", "width", "height", "score")}


SAYINGS: list[tuple[str, type[Any], Callable[[Sitting, Any], dict[str, Any] | None], str]] = [
    ("ratings", Rate, lambda sitting, said: sitting.rate(said.id, said.score, said.ms), "Rate a picture"),
    ("undo", Nothing, lambda sitting, said: {"undone": sitting.undo()}, "Take back what was said last"),
    ("delays", About, lambda sitting, said: sitting.later(said.id), "Put a trial off"),
    ("voids", About, lambda sitting, said: sitting.void(said.id), "Say that a trial's pictures are broken"),
    ("confirmations", About, lambda sitting, said: sitting.confirm(said.id), "Close a trial whose pictures are rated"),
    ("preferences", Prefer, _prefer, "Say which picture of a play-off's pair is better"),
    ("champions", Nothing, lambda sitting, said: sitting.end_play_off(), "End the play-off with the champion so far"),
]
"""Address, body, deed and meaning of everything that a person can say; the answer is the state after it."""

WHOLE = {"size": {"enum": ["whole"], "description": "`whole`: every pixel of it, as PNG; else a preview."}}
