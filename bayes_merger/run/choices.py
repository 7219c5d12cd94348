"""What can be chosen by name: the files of the config groups, the user's own and ours. Light: no Hydra."""

from __future__ import annotations

from pathlib import Path

from bayes_merger.config import data_root

PAYLOADS = "payloads"
GROUPS = (PAYLOADS, "scorers", "optimiser", "space", "generator", "experiment")


def payload_places() -> list[list[Path]]:
    """The folders of payload files: the user's own, and ours."""
    own = [Path.cwd() / PAYLOADS, Path.cwd() / "conf" / PAYLOADS]
    ours = data_root() / PAYLOADS
    return [own, [ours]] if ours not in own else [own]


def choices(group: str) -> list[str]:
    """What a config group offers, the user's own files included."""
    if group == PAYLOADS:
        from bayes_merger.imaging.payload.files import known_payloads

        return known_payloads(payload_places())
    folders = [data_root() / "conf", Path.cwd() / "conf"]
    if group == "scorers":
        folders += [data_root(), Path.cwd()]
    return sorted({path.name.removesuffix(".yaml") for folder in folders for path in (folder / group).glob("*.yaml")})
