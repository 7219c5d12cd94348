"""A study's pictures to be looked at: all of a payload, the best first; those of two merges in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from bayes_merger.errors import ConfigError, printable
from bayes_merger.report.comparison import Comparison, Side, comparison, sentence
from bayes_merger.report.contents import Shot, Shots
from bayes_merger.run.attributes import PAYLOADS
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.record import complete_trials, trial_of
from bayes_merger.web.answers import as_json
from bayes_merger.web.api.operations import Operation
from bayes_merger.web.api.schemas import Schema
from bayes_merger.web.api.studies import number_of
from bayes_merger.web.shelf import Shelf, address, picture_id

PAGE = 60
"""Pictures of a gallery that are told at once."""

BEST = "best"


class Looked(TypedDict):
    """A picture: of which trial, where it is (null where it is gone), and its own points."""

    trial: int
    payload: str
    address: str | None
    points: float | None


class Gallery(TypedDict):
    """The pictures of a payload, the best first, from a place on; of how many; and the names of all payloads."""

    pictures: list[Looked]
    total: int
    payloads: list[str]


class Paired(TypedDict):
    """Two pictures of one prompt and seed (as text: browsers round it), and by how many points the second leads."""

    payload: str
    seed: str
    prompt: str
    first: Looked
    second: Looked
    lead: float | None


class Changed(TypedDict):
    """A weight that differs; null where a merge has none of that name."""

    name: str
    first: float | None
    second: float | None


class Compared(TypedDict):
    """Two merges side by side, and in a sentence whether one is better."""

    first: str
    second: str
    pairs: list[Paired]
    said: str
    weights: list[Changed]


MERGES: Mapping[str, Schema] = {
    "first": {"type": "string", "description": "A trial's number, or `best`, which it is without."},
    "second": {"type": "string", "description": "The other trial, likewise."},
    "other": {"type": "string", "description": "The second one's study, if it is another."},
}

PLACE: Mapping[str, Schema] = {
    "payload": {"type": "string", "description": "Its name; the first one without."},
    "after": {"type": "integer", "minimum": 0, "description": f"Skip so many; {PAGE} are told at once."},
}


class LookingData:
    """What the gallery and the page of two merges show.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def routes(self) -> list[Operation]:
        """What the application serves."""
        study = "/api/v1/studies/{study}"
        return [
            Operation(study + "/gallery", self.gallery, Gallery, PLACE),
            Operation(study + "/comparison", self.comparison, Compared, MERGES),
        ]

    def gallery(self, request: Request) -> Response:
        """All pictures of a payload that are there, the best first."""
        folder = self._shelf.folder(request.path_params["study"])
        study = load(folder)
        names = [str(one["name"]) for one in study.user_attrs.get(PAYLOADS) or ()]
        wanted = request.query_params.get("payload") or next(iter(names), "")
        shots = Shots(study, folder)
        found = [
            shot
            for trial in complete_trials(study)
            for shot in shots.of(trial).values()
            if shot.payload == wanted and shot.path
        ]
        found.sort(key=lambda shot: (shot.points is None, -(shot.points or 0.0), shot.trial))
        skipped = number_of(request, "after") or 0
        shown = [_looked(folder, shot) for shot in found[skipped : skipped + PAGE]]
        return as_json({"pictures": shown, "total": len(found), "payloads": names})

    def comparison(self, request: Request) -> Response:
        """Two merges: pictures of the same prompt and seed in pairs, a paired test, the weights that differ.

        The same as `bayes-merger compare`.
        """
        name = request.path_params["study"]
        first = self._side(name, request.query_params.get("first", BEST))
        second = self._side(request.query_params.get("other") or name, request.query_params.get("second", BEST))
        return as_json(_told(comparison(first, second), first, second))

    def _side(self, name: str, trial: str) -> Side:
        folder = self._shelf.folder(name)
        study, trial = load(folder), trial.strip().removeprefix("#").lower()
        if trial != BEST and not (trial.isascii() and trial.isdecimal() and len(trial) < 10):
            raise ConfigError(f"trial: '{printable(trial, longest=40)}' is none; give a number, or {BEST}")
        return Side(study, folder, trial_of(study, None if trial == BEST else int(trial)))


def _told(found: Comparison, first: Side, second: Side) -> dict[str, Any]:
    pairs = [
        {"payload": pair.payload, "seed": str(pair.seed), "prompt": pair.prompt, "lead": pair.lead}
        | {"first": _looked(first.folder, pair.first), "second": _looked(second.folder, pair.second)}
        for pair in found.pairs
    ]
    said = f"Their points are not compared: {found.unlike}." if found.unlike else ""
    if found.test:
        said = f"{sentence(found.test, found.second)}."
    elif not found.pairs:
        said = "They have no prompt and seed in common."
    weights = [{"name": name, "first": one, "second": other} for name, one, other in found.weights]
    return {"first": found.first, "second": found.second, "pairs": pairs, "said": said, "weights": weights}


def _looked(folder: RunFolder, shot: Shot) -> dict[str, Any]:
    place = f"{address(folder)}/trials/{shot.trial}/pictures"
    where = f"{place}/{quote(picture_id(shot.path))}" if shot.path else None
    return {"trial": shot.trial, "payload": shot.payload, "address": where, "points": shot.points}
