"""The API's routes, each of which says what it takes and answers; the OpenAPI document is made from nothing else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bayes_merger import __version__
from bayes_merger.web.api.schemas import Schema, schema_of
from bayes_merger.web.guard import COOKIE

ADDRESS = "/api/openapi.json"

PICTURE = ("image/webp", "image/png")
TEXT = ("text/plain",)
"""Answers that are no JSON."""

PARTS: Mapping[str, Schema] = {
    "study": {"type": "string", "description": "The study's name."},
    "trial": {"type": "string", "description": "The trial's number, or `best`; of a merge also `predicted`."},
    "id": {"type": "string", "description": "An opaque id, as another answer gives it."},
    "form": {"type": "string", "description": "One of the forms that `bayes-merger export --help` lists."},
}
"""What may stand between slashes."""

SINCE: Mapping[str, Schema] = {
    "version": {"type": "string", "description": "Of the answer that is known already: 204 while nothing has changed."}
}
"""The parameter of an answer that has a version."""


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one line: the thing, the value, the way out."""

    error: str


class Operation(Route):
    """A route that describes itself.

    Its endpoint's docstring is its description, and the type that :func:`bayes_merger.web.answers.writing` was given
    its body; what has a body is asked by POST.

    Args:
        path: its address.
        endpoint: answers.
        answer: the type of the JSON it answers; or its media types, such as :data:`PICTURE`.
        query: its parameters -> their schemas, with a ``description``.
        about: what it does, where the endpoint has no docstring.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        answer: Any,
        query: Mapping[str, Schema] | None = None,
        *,
        about: str = "",
    ) -> None:
        self.body = getattr(endpoint, "body", None)
        self.method = "POST" if self.body else "GET"
        super().__init__(path, endpoint, methods=[self.method])
        self.answer, self.query = answer, query or {}
        self.about = about or inspect.getdoc(endpoint) or ""

    def described(self, known: dict[str, Schema]) -> dict[str, Any]:
        """Its entry in the document; see :func:`schema_of` for ``known``."""
        summary, _, rest = self.about.partition("\n\n")
        parts = re.findall(r"{(\w+)", self.path)
        answers: dict[str, Any] = {"200": {"description": "Done.", "content": _content(self.answer, known)}}
        if "version" in self.query:
            answers["204"] = {"description": "Nothing has changed since that version."}
            answers["304"] = {"description": "Nothing has changed since that ETag."}
        answers["default"] = {"description": "It was not done, and why.", "content": _content(Failure, known)}
        found: dict[str, Any] = {
            "operationId": f"{self.method.lower()}{re.sub(r'[^a-z]+', '-', self.path_format.removeprefix('/api/v1'))}",
            "summary": " ".join(summary.split()),
            "parameters": [_parameter(name, "path", PARTS[name]) for name in parts]
            + [_parameter(name, "query", schema) for name, schema in self.query.items()],
            "responses": answers,
        }
        if rest:
            found["description"] = " ".join(rest.split())
        if self.body:
            found["requestBody"] = {"required": True, "content": _content(self.body, known)}
        return found


def _content(kind: Any, known: dict[str, Schema]) -> dict[str, Any]:
    """Media type -> schema."""
    if isinstance(kind, str | tuple):
        kind = (kind,) if isinstance(kind, str) else kind
        return {media: {"schema": {"type": "string"}} for media in kind}
    return {"application/json": {"schema": schema_of(kind, known)}}


def _parameter(name: str, place: str, schema: Schema) -> dict[str, Any]:
    described = {"description": schema["description"]}
    own = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": place, "required": place == "path", **described, "schema": own}


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes, and of its own; those that do not describe themselves are pages."""
    known: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in (*routes, describing(())):
        if isinstance(route, Operation):
            paths.setdefault(route.path_format, {})[route.method.lower()] = route.described(known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bayes_merger",
            "version": __version__,
            "description": "Studies, their trials and pictures, ratings, ask and tell. A program sends the token of "
            "the link that `bayes-merger serve` prints as `Authorization: Bearer TOKEN`.",
        },
        "security": [{"token": []}, {"cookie": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(known.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def describing(routes: Iterable[BaseRoute]) -> Operation:
    """The route of the document of these routes."""

    def answer(_: Request) -> Response:
        """This document."""
        return JSONResponse(document(routes))

    return Operation(ADDRESS, answer, dict[str, Any])
