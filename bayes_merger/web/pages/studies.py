"""The study browser: all studies, and the page of each, which moves with it. The pages ask for all the rest as data."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bayes_merger.web.shelf import Shelf, address
from bayes_merger.web.templates import page


class StudyPages:
    """All studies, one, and the form that starts one.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [Route("/studies", self.all), Route("/new", self.new), Route("/studies/{study}", self.one)]

    def all(self, _: Request) -> Response:
        """Each study as a card."""
        return page("studies.html")

    def new(self, _: Request) -> Response:
        """The form that starts a run."""
        return page("new.html")

    def one(self, request: Request) -> Response:
        """A study with everything that its report has."""
        folder = self._shelf.folder(request.path_params["study"])
        name = quote(folder.name, safe="")
        here, rate = f"/studies/{name}", f"/rate/{name}"
        return page("study.html", study=folder.name, api=address(folder), here=here, rate=rate)
