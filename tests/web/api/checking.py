"""Whether data are what a schema of the API's document says; as much of JSON Schema as that document uses."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def wrong(data: Any, schema: dict[str, Any], document: dict[str, Any], place: str = "") -> list[str]:
    """What does not fit, a line each."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        return wrong(data, document["components"]["schemas"][name], document, place)
    if "anyOf" in schema:
        tried = [wrong(data, one, document, place) for one in schema["anyOf"]]
        return [] if [] in tried else min(tried, key=len)
    if "enum" in schema:
        return [] if data in schema["enum"] else [f"{place}: {data!r} is none of {schema['enum']}"]
    if "type" not in schema:
        return []
    if not isinstance(data, TYPES[schema["type"]]) or (isinstance(data, bool) and schema["type"] != "boolean"):
        return [f"{place}: {data!r} is no {schema['type']}"]
    found: list[str] = []
    if isinstance(data, list):
        for index, value in enumerate(data):
            found += wrong(value, schema["items"], document, f"{place}[{index}]")
    if isinstance(data, dict):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        found += [f"{place}.{name}: is missing" for name in schema.get("required", ()) if name not in data]
        for name, value in data.items():
            if name not in properties and rest is False:
                found.append(f"{place}.{name}: is not described")
            else:
                found += wrong(value, properties.get(name, rest), document, f"{place}.{name}")
    return found
