"""The style sheets, the scripts and the icon: read once, at the start, so that no address leads to the disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """One file of ``static/``, the pages' own or the report's.

    Attributes:
        data: what is in it.
        media_type: of it.
        mark: changes with it, and is in its address, so that browsers may keep it for good.
    """

    data: bytes
    media_type: str
    mark: str


def _read(folder: Traversable) -> dict[str, Asset]:
    found = {}
    for file in folder.iterdir():
        if (suffix := PurePath(file.name).suffix) in MEDIA_TYPES:
            data = file.read_bytes()
            found[file.name] = Asset(data, MEDIA_TYPES[suffix], hashlib.sha256(data).hexdigest()[:12])
    return found


ASSETS = {
    name: asset
    for room in ("bayes_merger.report", "bayes_merger.web")
    for name, asset in _read(resources.files(room) / "static").items()
}


def address(name: str) -> str:
    """Where a page finds a file of ``static/``."""
    return f"/assets/{name}?v={ASSETS[name].mark}"


def asset(request: Request) -> Response:
    """One of them."""
    found = ASSETS.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    kept = "max-age=31536000, immutable" if request.query_params.get("v") == found.mark else "no-cache"
    return Response(found.data, media_type=found.media_type, headers={"cache-control": kept})
