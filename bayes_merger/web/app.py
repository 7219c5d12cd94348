"""The application: routes put together, errors answered, the guard before them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from bayes_merger.errors import BayesMergerError
from bayes_merger.web.answers import LARGEST_BODY, on_error
from bayes_merger.web.api.operations import describing
from bayes_merger.web.assets import asset
from bayes_merger.web.guard import Guard


def build_app(routes: Sequence[BaseRoute], token: str, *, home: str, names: Collection[str] = ("localhost",)) -> Guard:
    """The application that a server serves.

    Args:
        routes: of its pages and their data, such as :func:`bayes_merger.web.pages.rating.routes`.
        token: that opens it; see :mod:`bayes_merger.web.guard`.
        home: where ``/`` leads.
        names: host names under which it may be asked for.
    """

    def to_home(_: object) -> Response:
        return RedirectResponse(home, 307)

    app = Starlette(
        routes=[Route("/", to_home), Route("/assets/{name}", asset), describing(routes), *routes],
        exception_handlers={HTTPException: on_error, BayesMergerError: on_error, Exception: on_error},
        max_body_size=LARGEST_BODY,
    )
    app.router.redirect_slashes = False
    return Guard(app, token, names)
