"""What people have of a picture they like -> the fields of a payload: the picture itself, a request as JSON, or a text.

What a payload cannot say is left out, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayes_merger.documents import parse_document, read_text
from bayes_merger.errors import ConfigError, printable
from bayes_merger.imaging.payload.comfyui import is_graph, read_graph
from bayes_merger.imaging.payload.comfyui_editor import graph_of_editor, is_of_editor
from bayes_merger.imaging.payload.elsewhere import fields_of, fields_of_dream, unwrapped
from bayes_merger.imaging.payload.fields import TEXT_FIELDS, payload_from_mapping
from bayes_merger.imaging.payload.infotext import is_infotext, split_infotext, split_infotexts
from bayes_merger.imaging.payload.pictures import is_picture, texts_of
from bayes_merger.imaging.payload.texts import prompts_in
from bayes_merger.imaging.payload.values import SECOND_PASS
from bayes_merger.imaging.pipelines.schedulers import check_sampler, nearest_sampler

_KEYWORDS = ("parameters", "usercomment", "prompt", "comment", "invokeai_metadata", "sd-metadata", "workflow")
"""Keywords of texts in pictures, in small letters, those first that say most."""


@dataclass
class Imported:
    """A payload that was read from elsewhere.

    Attributes:
        name: what it is to be called.
        fields: of the payload.
        notes: what was left out or changed, one line each.
    """

    name: str
    fields: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def import_file(path: Path) -> list[Imported]:
    """The payloads in a picture, a JSON file or a text file.

    Raises:
        ConfigError: it holds none, or what it holds cannot be read. The text names the file.
    """
    try:
        found = list(_of_picture(path) if is_picture(path) else _of_file(path))
        if not found:
            raise ConfigError("holds no prompt")
        for number, one in enumerate(found):
            one.name = _name(path.stem) + (f"-{number + 1}" if len(found) > 1 else "")
            _make_drawable(one)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found


def _of_picture(path: Path) -> Iterator[Imported]:
    texts = {keyword.lower(): text for keyword, text in texts_of(path).items()}
    for keyword in _KEYWORDS:
        if keyword in texts and (found := list(_of_text(texts[keyword]))):
            yield from found
            return
    if fields := fields_of_dream(texts.get("dream", "")):
        yield Imported("", fields)
        return
    raise ConfigError("holds no parameters of a web UI; they are lost where a picture is edited or uploaded")


def _of_file(path: Path) -> Iterator[Imported]:
    text = read_text(path)
    found = list(_of_text(text))
    if found:
        yield from found
    elif path.suffix.lower() == ".json":
        raise ConfigError("is neither a request of A1111's API nor a graph of ComfyUI's  Workflow > Export (API)")
    else:
        yield from (Imported("", fields) for fields in prompts_in(text))


def _of_text(text: str) -> Iterator[Imported]:
    """The payloads in a text of a web UI; none where it is another text."""
    if is_infotext(text):
        for one in split_infotexts(text):
            fields, others = split_infotext(one)
            notes = [f"left out: {printable(name)}" for name in others]
            if fields.get("denoising_strength") and not fields.get("enable_hr"):
                notes.append("left out: Denoising strength; the picture was made from another one, which is not drawn")
            yield Imported("", fields, notes)
        return
    try:
        data = parse_document(text, text_of=TEXT_FIELDS)
    except ConfigError:
        return
    for one in data if isinstance(data, list) else [data]:
        yield from _of_data(unwrapped(one))


def _of_data(data: Any) -> Iterator[Imported]:
    """The payload in a graph, a request, or another table about a picture."""
    if isinstance(data, str) and is_infotext(data):
        yield from _of_text(data)
    if not isinstance(data, Mapping):
        return
    if is_graph(data.get("prompt")):
        data = data["prompt"]  # as it goes to ComfyUI's server
    if is_of_editor(data):
        data, _ = graph_of_editor(data)
    if is_graph(data):
        fields, kinds = read_graph(data)
        yield Imported("", fields, [f"left out: what the node {kind} does" for kind in kinds])
        return
    fields, others = fields_of(data)
    if "prompt" in fields:
        yield Imported("", fields, [f"left out: {printable(name)}" for name in others])


def _make_drawable(one: Imported) -> None:
    """Take away or replace what cannot be drawn, with a note on each; an error where nothing is left to draw."""
    fields, notes = one.fields, one.notes
    for name in ("width", "height"):
        if isinstance(side := fields.get(name), int) and side % 8:
            fields[name] = side // 8 * 8  # as web UIs do
    sampler = str(fields.get("sampler_name", "Euler a"))
    try:
        check_sampler(sampler, str(fields.get("scheduler", "Automatic")))
    except ConfigError as error:
        fields["sampler_name"] = nearest_sampler(sampler)
        notes.append(f"sampler_name: {error}; set to {fields['sampler_name']} (it was {printable(sampler)})")
        fields.pop("scheduler", None)
    while fault := _fault(fields):
        names = dict.fromkeys("enable_hr" if name in SECOND_PASS else name for name in fields if name != "prompt")
        helping = next((name for name in names if _fault(_without(fields, name)) != fault), None)
        if helping is None:
            raise ConfigError(fault)
        notes.append(f"left out: {fault}")
        one.fields = fields = _without(fields, helping)
    if not fields.get("enable_hr"):
        one.fields = _without(fields, "enable_hr")


def _fault(fields: Mapping[str, Any]) -> str:
    """Why these fields cannot be drawn; empty where they can. Styles are in a file that is not asked for here."""
    try:
        payload_from_mapping("x", {name: value for name, value in fields.items() if name != "styles"})
    except ConfigError as error:
        return str(error).removeprefix("payload x: ")
    return ""


def _without(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields without one of them, and those that only matter with it."""
    gone = {name, *SECOND_PASS} if name == "enable_hr" else {name}
    return {key: value for key, value in fields.items() if key not in gone}


def _name(stem: str) -> str:
    return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "imported"
