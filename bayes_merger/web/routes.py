"""All that ``bayes-merger serve`` serves: the pages, and the API that they and programs use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.routing import BaseRoute

from bayes_merger.web.api.events import Events
from bayes_merger.web.api.lending import Lending
from bayes_merger.web.api.looking import LookingData
from bayes_merger.web.api.runs import RunData
from bayes_merger.web.api.studies import StudyData
from bayes_merger.web.api.trials import TrialData
from bayes_merger.web.inspector import Inspector
from bayes_merger.web.pages.rating import RatingPages, Sittings
from bayes_merger.web.pages.studies import StudyPages
from bayes_merger.web.shelf import Shelf


class Room(Protocol):
    """What has routes."""

    def routes(self) -> Sequence[BaseRoute]:
        """What the application serves."""


def all_routes(shelf: Shelf, sittings: Sittings, runs: RunData) -> list[BaseRoute]:
    """Every page and every operation.

    Args:
        shelf: where the studies are.
        sittings: of the person who rates.
        runs: that are started and steered.
    """
    data = StudyData(shelf)
    events = Events(shelf, data.line, runs.queue)
    rooms: list[Room] = [StudyPages(shelf), data, events, TrialData(shelf), Lending(shelf), LookingData(shelf), runs]
    rooms += [RatingPages(sittings.of), Inspector(shelf)]
    return [route for room in rooms for route in room.routes()]
