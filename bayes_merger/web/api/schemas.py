"""JSON Schema of types: what an answer's or a body's type says, in the words of OpenAPI 3.1."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

Schema = dict[str, Any]

PLAIN: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def schema_of(kind: Any, known: dict[str, Schema]) -> Schema:
    """The schema of a type: plain ones, lists, mappings, ``X | None``, literals, dataclasses and typed dictionaries.

    Args:
        kind: the type; ``Annotated[X, {...}]`` adds words of its own to X's schema.
        known: schemas by name; those of dataclasses and typed dictionaries are added, and only referred to.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return {**schema_of(inner[0], known), **inner[1]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(one, known) for one in inner]}
    if origin in (list, Sequence):
        return {"type": "array", "items": schema_of(inner[0], known)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema_of(inner[1], known)}
    if kind in PLAIN:
        return dict(PLAIN[kind])
    name = kind.__name__
    own = {"$ref": f"#/components/schemas/{name}"}
    if known.get(name) is None:
        known[name] = {}  # it may be part of itself
        known[name] = _of_fields(kind, known)
    elif known[name] and known[name] != _of_fields(kind, dict(known)):
        raise ValueError(f"two types are called {name}")
    return own


def _of_fields(kind: Any, known: dict[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        free = dataclasses.MISSING
        needed = [one.name for one in dataclasses.fields(kind) if one.default is free and one.default_factory is free]
    else:
        needed = [name for name, hint in hints.items() if get_origin(hint) is not typing.NotRequired]
    about = {"description": " ".join(kind.__doc__.split())} if kind.__doc__ else {}
    properties = {name: schema_of(_unwrapped(hint), known) for name, hint in hints.items()}
    required = {"required": needed} if needed else {}
    return about | {"type": "object", "properties": properties, **required, "additionalProperties": False}


def _unwrapped(hint: Any) -> Any:
    """A field's type without the mark that it may be missing."""
    return get_args(hint)[0] if get_origin(hint) is typing.NotRequired else hint
