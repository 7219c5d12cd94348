"""What is asked as data and what is answered: bodies as dataclasses, errors as one line."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from bayes_merger.errors import (
    BayesMergerError,
    Closed,
    ConfigError,
    StorageError,
    nearest,
    one_line,
    printable,
    trouble,
)
from bayes_merger.plain_json import parse_json
from bayes_merger.web.templates import page

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_BODY = 64 << 10
"""Bytes of a request's body."""

TITLES = {
    401: "Which key?",
    403: "Not from here",
    404: "Nothing here",
    405: "Not like this",
    409: "Too late",
    413: "Too much",
    421: "Wrong name",
    422: "Not understood",
    500: "A fault of ours",
    503: "Not now",
}


class NotFound(BayesMergerError):
    """What was asked for is not there."""


def refusal(headers: Headers, status: int, text: str) -> Response:
    """An error as a page for a person, as JSON ``{"error": ...}`` for a program."""
    if "text/html" in headers.get("accept", ""):
        return page("error.html", status, title=TITLES.get(status, "Error"), text=text)
    return JSONResponse({"error": text}, status)


def on_error(request: Request, error: Exception) -> Response:
    """The answer to a request that raised; what nobody expected is logged and not shown."""
    status, text = _status(error)
    if status == 500:
        log.error("%s %s failed", request.method, printable(request.url.path), exc_info=error)
    return refusal(request.headers, status, text)


def _status(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, _HTTP.get(error.status_code, error.detail)
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status, str(error)
    if said := trouble(error):
        return 503, said
    return 500, "this should not have happened; the terminal says more"


_HTTP = {404: "there is nothing at this address", 405: "this address is not asked like that"}
_STATUS: dict[type[Exception], int] = {Closed: 409, NotFound: 404, StorageError: 503, BayesMergerError: 422}


def versioned(request: Request, version: str, data: Callable[[], Any]) -> Response:
    """Data of a version; nothing (204 or 304) to whoever says in ``?version=`` or If-None-Match that they know it."""
    tag = f'"{version}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.query_params.get("version") == version:
        return Response(status_code=204, headers=headers)
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return as_json(data(), headers)


def as_json(data: Any, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Plain data; what JSON has no number for is null, since a stored study may hold anything."""
    return JSONResponse(finite(data), headers=headers)


def finite(data: Any) -> Any:
    """Plain data in which what JSON has no number for is null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): finite(value) for key, value in data.items()}
    return [finite(value) for value in data] if isinstance(data, list | tuple) else data


def parsed(kind: type[T], data: object) -> T:
    """Plain data as a dataclass whose fields are text, numbers and truth values, or lists of them.

    Raises:
        ConfigError: a field that is not there, not known or of another type.
    """
    if not isinstance(data, dict):
        raise ConfigError("the request's body must be a JSON object")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            raise ConfigError(f"no field '{printable(name)}'; {nearest(name, fields)}")
    types_of = typing.get_type_hints(kind)
    values = {name: _value(name, types_of[name], value) for name, value in data.items()}
    for name, field in fields.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"field '{name}' is missing")
    return kind(**values)


def _value(name: str, wanted: Any, value: object) -> object:
    if typing.get_origin(wanted) is typing.Annotated:
        wanted = wanted.__origin__
    if isinstance(wanted, types.UnionType):  # X | None
        if value is None:
            return None
        wanted = wanted.__args__[0]
    if typing.get_origin(wanted) is list:
        if not isinstance(value, list):
            raise ConfigError(f"field '{name}' must be a list, not {one_line(repr(value), longest=40)}")
        return [_value(name, typing.get_args(wanted)[0], one) for one in value]
    if wanted is float and type(value) is int and abs(value) < 1e300:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):  # type: ignore[arg-type]
        raise ConfigError(f"field '{name}' must be {_NAMES[wanted]}, not {one_line(repr(value), longest=40)}")
    return value


_NAMES = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}


def writing(kind: type[T]) -> Callable[[Callable[[Request, T], Any]], Callable[[Request], Any]]:
    """An endpoint that is given the body as ``kind`` and answers with JSON; it may wait for the disk."""

    def endpoint(function: Callable[[Request, T], Any]) -> Callable[[Request], Any]:
        @functools.wraps(function)
        async def answer(request: Request) -> Response:
            try:
                text = (await request.body()).decode()
                data = parse_json(text) if text.strip() else {}
            except ClientDisconnect:
                return Response(status_code=204)  # nobody is there to read it
            except ValueError as error:
                raise ConfigError(f"the request's body is not JSON ({one_line(error)})") from None
            return JSONResponse(await run_in_threadpool(function, request, parsed(kind, data)))

        answer.body = kind  # type: ignore[attr-defined]
        return answer

    return endpoint
