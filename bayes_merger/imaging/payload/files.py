"""Payload files as people have them.

::

    prompt: a cat                    portrait:                          defaults:
    steps: 20                          prompt: a cat                      - cargo: [ring, disc]
                                     street:                            steps: 20
                                       prompt: a street                 sampler_name: Euler a

The fields of one payload, which is called as the file; or several under their own names; or, as in the original sd-
webui-bayesian-merger, a set: files in folders beside it, and the fields that they share. YAML, JSON, the text that web
UIs write into their pictures, of one or several of them, or a prompt a line. They are data and nothing else: `${...}`
is text, and nothing in them reaches another setting.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bayes_merger.documents import files_below, parse_document, read_text
from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.fields import TEXT_FIELDS, is_field, overlaid
from bayes_merger.imaging.payload.infotext import is_infotext, read_infotext, split_infotexts
from bayes_merger.imaging.payload.texts import prompts_in

SUFFIXES = (".yaml", ".yml", ".json", ".txt")

Places = Sequence[Sequence[Path]]
"""Folders of payload files, those of the first group before those of the next."""


@dataclass(frozen=True)
class _Found:
    """The fields of one payload, the file they are from, and whether it is the only one there."""

    path: Path
    name: str
    fields: Mapping[str, Any]
    alone: bool


def known_payloads(places: Places) -> list[str]:
    """What can be chosen: files, without their suffix, by their place in the folders."""
    return sorted({
        path.relative_to(folder).with_suffix("").as_posix()
        for group in places
        for folder in group
        for path in files_below(folder, SUFFIXES)
    })  # fmt: skip


def read_payloads(names: Sequence[str], places: Places) -> dict[str, dict[str, Any]]:
    """The payloads in some files.

    Args:
        names: of files in the folders, with or without their suffix, like `portrait` or `cargo/ring`.
        places: where they may lie.

    Returns:
        Payload's name -> its fields as they were written. Where two have one name, they are called as their files.

    Raises:
        ConfigError: no such file, two of them, one that cannot be read, or payloads that cannot be told apart.
    """
    found = [payload for name in names for payload in _payloads_of(name, places)]
    taken = [payload.name for payload in found]
    read: dict[str, _Found] = {}
    for payload in found:
        clash = taken.count(payload.name) > 1
        name = _stem(payload.path) if clash and payload.alone else payload.name
        if name in read:
            other = read[name].path
            both = f"{_shown(other)} and {_shown(payload.path)} both hold" if other != payload.path else "chosen twice:"
            raise ConfigError(f"payloads: {both} '{printable(name)}'; rename one, or leave it out")
        read[name] = payload
    return {name: dict(payload.fields) for name, payload in read.items()}


def _payloads_of(name: str, places: Places, *, in_set: bool = False) -> Iterator[_Found]:
    path = _find(name, places)
    try:
        data = _read(path)
        members = data.pop("defaults", None)
        if members is None:
            yield from _own(path, data)
            return
        if in_set:
            raise ConfigError("a set in a set; name its payloads in the outer one")
        chosen = list(_members(members, PurePosixPath(name).parent))
    except ConfigError as error:
        raise ConfigError(f"payloads: {_shown(path)}: {error}") from None
    shared = {key: value for key, value in data.items() if is_field(key) or not isinstance(value, dict)}
    tables = {key: value for key, value in data.items() if key not in shared}
    inside = [_Found(path, key, fields, False) for key, fields in tables.items()]
    for payload in (*inside, *(payload for one in chosen for payload in _payloads_of(one, places, in_set=True))):
        yield _Found(payload.path, payload.name, overlaid(shared, payload.fields), payload.alone)


def _own(path: Path, data: dict[str, Any]) -> Iterator[_Found]:
    """The payloads of a file that is no set."""
    if any(is_field(key) or not isinstance(value, dict) for key, value in data.items()):
        yield _Found(path, _stem(path), data, True)
    else:
        yield from (_Found(path, key, fields, len(data) == 1) for key, fields in data.items())


def _read(path: Path) -> dict[str, Any]:
    """The fields of one payload, or payloads by name."""
    text = read_text(path)
    if is_infotext(text):
        found = [read_infotext(one) for one in split_infotexts(text)]
        return found[0] if len(found) == 1 else _numbered(path, found)
    if path.suffix == ".txt" and (found := _prompts(text)):
        return found[0] if "negative_prompt" in found[0] and len(found) == 1 else _numbered(path, found)
    data = parse_document(text, text_of=TEXT_FIELDS)
    if isinstance(data, list) and data and all(isinstance(one, dict) for one in data):
        return _numbered(path, data)
    if not isinstance(data, dict) or not data:
        kind = {list: "a list", dict: "nothing", type(None): "nothing"}.get(type(data), "a text or number")
        raise ConfigError(f"holds {kind}, not the fields of a payload; begin with  prompt: what to draw")
    return {str(key): value for key, value in data.items()}


def _prompts(text: str) -> list[dict[str, Any]]:
    """The payloads in a text that is nothing but prompts."""
    try:
        is_data = isinstance(parse_document(text), dict | list)
    except ConfigError:
        is_data = False
    return [] if is_data else prompts_in(text)


def _numbered(path: Path, payloads: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {f"{_stem(path)}-{number}": fields for number, fields in enumerate(payloads, 1)}


def _members(members: Any, folder: PurePosixPath) -> Iterator[str]:
    """The files that a set names, by their place in the folders."""
    for member in members if isinstance(members, list) else [members]:
        table = member if isinstance(member, dict) else {"": member}
        for group, choice in table.items():
            for one in choice if isinstance(choice, list) else [choice]:
                if not isinstance(one, str) or not isinstance(group, str):
                    raise ConfigError(f"defaults: {printable(repr(one))} is no payload's name")
                if one not in ("_self_", "..."):
                    yield (folder / group / one).as_posix()


def _find(name: str, places: Places) -> Path:
    for folders in places:
        found = {path.resolve(): path for folder in folders for path in _candidates(folder, name)}
        if len(found) > 1:
            one, other, *_ = found.values()
            raise ConfigError(f"payloads: '{printable(name)}' is {_shown(one)} and {_shown(other)}; rename one")
        if found:
            return next(iter(found.values()))
    known = known_payloads(places)
    if (stem := PurePosixPath(name.replace("\\", "/")).stem) in known and stem != name:
        raise ConfigError(f"payloads: no '{printable(name)}'; by its name, not its path:  payloads={stem}")
    raise ConfigError(f"payloads: no '{printable(name)}'; {nearest(name, known)}")


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    """The files that may be meant: macOS writes letters with marks as two characters, keyboards as one."""
    if folder.is_relative_to(here := Path.cwd()):
        name = name.removeprefix("./").removeprefix(
            f"{folder.relative_to(here).as_posix()}/"
        )  # as a shell completes it
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name.isprintable():
        return
    for suffix in ("", *SUFFIXES):
        for form in dict.fromkeys((name, *(unicodedata.normalize(how, name) for how in ("NFC", "NFD")))):
            path = folder / f"{form}{suffix}"
            # Path's own functions raise where a folder may not be entered
            if path.suffix in SUFFIXES and os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112
                yield path


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.name.removesuffix(path.suffix))


def _shown(path: Path) -> str:
    return printable(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path), longest=200)
