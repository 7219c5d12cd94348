"""The study browser: all studies, and the page of each, which moves with it. The pages ask for all the rest as data."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from bayes_merger.report.contents import contents_of
from bayes_merger.report.page import page as report
from bayes_merger.run.folder import load
from bayes_merger.web.shelf import Shelf, address
from bayes_merger.web.templates import page

ALONE = "sandbox allow-scripts allow-modals; frame-ancestors 'none'"
"""The policy of a page that brings one of its own."""


class StudyPages:
    """All studies, those of one, and the form that starts one.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def routes(self) -> list[Route]:
        """What the application serves."""
        one = "/studies/{study}"
        return [
            Route("/studies", self.all),
            Route("/new", self.new),
            Route(f"{one}/report.html", self.report),
            *(Route(f"{one}{what}", self._of(template)) for what, template in OF_A_STUDY.items()),
        ]

    def all(self, _: Request) -> Response:
        """Each study as a card."""
        return page("studies.html")

    def new(self, request: Request) -> Response:
        """The form that starts a run; with `?fork=NAME` one that goes on from there."""
        name = request.query_params.get("fork", "")
        return page("new.html", fork=self._shelf.folder(name).name if name else "")

    def report(self, request: Request) -> Response:
        """Its report as one file, as ``bayes-merger report`` writes it; it has no part in this server's origin."""
        folder = self._shelf.folder(request.path_params["study"])
        return HTMLResponse(report(contents_of(load(folder), folder)), headers={"content-security-policy": ALONE})

    def _of(self, template: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            folder = self._shelf.folder(request.path_params["study"])
            name = quote(folder.name, safe="")
            here, rate = f"/studies/{name}", f"/rate/{name}"
            return page(template, study=folder.name, api=address(folder), here=here, rate=rate)

        return answer


OF_A_STUDY = {"": "study.html", "/gallery": "gallery.html", "/compare": "compare.html"}
"""The pages of a study: everything that its report has, all its pictures, two merges side by side."""
