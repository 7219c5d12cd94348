"""The libraries that pictures come from: what a study was drawn with, and whether another machine has the same.

Another diffusers may draw another picture from the same merge, seed and prompt, and nobody would see it in the score.
So a worker that joins must have the study's versions; who goes on with a study alone may have upgraded, and is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from optuna.study import Study

from bayes_merger import __version__
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.schedulers import REDRAWN
from bayes_merger.run.attributes import VERSIONS

PACKAGES = {"diffusers": "diffusers", "transformers": "transformers", "open_clip": "open_clip_torch"}
"""The libraries that decide what is drawn and how it is scored -> the packages that they are installed by."""

_OWN = "bayes_merger"
_LAST_BITS = ("torch", "device")  # which change the last bits of a picture, and seldom more
_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,60}", re.ASCII)


def versions_here(device: str) -> dict[str, str]:
    """The versions of what is installed, and the kind of device that draws.

    Args:
        device: ``generator.device``.

    Raises:
        ConfigError: there is no such device.
    """
    from bayes_merger.imaging.pipelines.device import device_of

    found = {_OWN: __version__}
    for name, package in {**PACKAGES, "torch": "torch"}.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:  # nothing here needs it, or it is missed where it is needed
            continue
    return {**found, "device": device_of(device).type}


def are_versions(value: Any) -> bool:
    """Whether this is what a study stores of its versions: others may have written it, and it is shown to paste."""
    return isinstance(value, Mapping) and all(
        isinstance(each, str) and _VERSION.fullmatch(each) for pair in value.items() for each in pair
    )


def check_versions(stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Refuse to draw for a study with other versions than its own; what changes only the last bits is a note.

    Args:
        stored: the study's; a study from before they were stored has none.
        here: this machine's.

    Returns:
        The notes.

    Raises:
        ConfigError: a library that decides what is drawn has another version; the text says what to install.
    """
    different = _different(stored, here)
    if wrong := [name for name in different if name not in _LAST_BITS]:
        packages = {_OWN: "bayes-merger", **PACKAGES}
        wanted = " ".join(f"{packages[name]}=={stored[name]}" for name in wrong)
        raise ConfigError(
            f"versions: {_listed(wrong, stored, here)}, so pictures from here would not compare with the study's; "
            f"pip install {wanted}"
        )
    return [f"{_listed(different, stored, here)}: scores may differ in their last digits"] if different else []


def about_upgrade(stored: Mapping[str, str], here: Mapping[str, str], payloads: Iterable[Payload] = ()) -> str:
    """What is to be said where a study goes on with other versions than before; empty where they are the same.

    Args:
        stored: the study's; a study from before they were stored has none.
        here: this machine's.
        payloads: what it draws here; none where another program draws.
    """
    if redrawn := about_samplers(stored, here, payloads):
        return redrawn
    different = _listed(_different(stored, here), stored, here)
    return f"{different}: new scores may not compare exactly with earlier ones" if different else ""


def about_samplers(stored: Mapping[str, str], here: Mapping[str, str], payloads: Iterable[Payload]) -> str:
    """What is to be said of samplers that draw another picture here than where a study began; empty if none does.

    Args:
        stored: as for :func:`about_upgrade`.
        here: likewise.
        payloads: likewise.
    """
    passes = [each for payload in payloads for each in (payload, payload.hires) if each]
    began = _release(stored.get(_OWN, "0.1.0"))
    names = sorted({each.sampler_name for each in passes} & REDRAWN.keys()) if _OWN in here else []
    redrawn = [name for name in names if began < _release(REDRAWN[name]) <= _release(here[_OWN])]
    if not redrawn:
        return ""
    since = max((REDRAWN[name] for name in redrawn), key=_release)
    return (
        f"{', '.join(redrawn)}: drawn as A1111 draws since bayes_merger {since}, which the study's first pictures "
        "are not: new scores do not compare with earlier ones; a new study's do"
    )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version, re.ASCII)[:3])


def remember_versions(study: Study, here: Mapping[str, str], payloads: Iterable[Payload] = ()) -> str:
    """Make these the study's versions, which workers that join from now on must have; returns what is to be said."""
    stored = study.user_attrs.get(VERSIONS) or {}
    if stored != here:
        study.set_user_attr(VERSIONS, dict(here))
    return about_upgrade(stored, here, payloads)


def _different(stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    return [name for name in (_OWN, *PACKAGES, *_LAST_BITS)
            if name in stored and name in here and stored[name] != here[name]]  # fmt: skip


def _listed(names: list[str], stored: Mapping[str, str], here: Mapping[str, str]) -> str:
    return ", ".join(f"{name} is {here[name]} here and was {stored[name]} in the study" for name in names)
