"""Which settings of a study may change when it goes on or is forked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayes_merger.compose.typed import in_full, is_of
from bayes_merger.config import CHANGEABLE, FILES
from bayes_merger.documents import parse_document
from bayes_merger.errors import ConfigError, one_line
from bayes_merger.paths import quoted

FORKED = ("optimiser", "space", "seed", "init_points", "anchors", "design")
"""The settings that may change in a fork besides those that may always; after others no score compares."""


def is_forked(key: str) -> bool:
    """Whether a setting may differ in a fork."""
    return any(is_of(key, ok) for ok in (*CHANGEABLE, *FORKED))


def check_forked(name: str, overrides: Sequence[str]) -> None:
    """Refuse changes in a fork after which nothing of the study would compare.

    Raises:
        ConfigError: naming the first of them.
    """
    for key in (in_full(override).partition("=")[0] for override in overrides):
        if not is_forked(key):
            raise ConfigError(
                f"{key}: with another one no score of study '{name}' would compare; start a new run "
                f"(these can change in a fork: {', '.join((*FORKED, *CHANGEABLE))})"
            )


def is_moved(key: str, stored: Any, value: str) -> bool:
    """Whether a setting names a file and is to name one again; that it is the same is seen by its hash."""
    return any(is_of(key, file) for file in FILES) and is_file(stored) and is_file(value)


def is_file(value: Any) -> bool:
    """Whether this is the name of a file, not that of a model or a word."""
    return isinstance(value, str) and len(value) > 1 and value not in ("merge", "null")


def _is_same(stored: Any, value: str) -> bool:
    """Whether what is typed is what the study has: somebody has pasted the whole command."""
    if isinstance(stored, Mapping | list):
        return False
    try:
        read = parse_document(value)
    except ConfigError:
        read = value
    return value == stored or (type(read) is type(stored) and read == stored)


def check_changeable(name: str, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse changes on resume that would make a study's trials incomparable, or its course another one.

    Raises:
        ConfigError: naming the first of them, what it is and what it cannot become.
    """
    for override in overrides:
        key, _, value = in_full(override).partition("=")
        stored: Any = config
        for part in key.split("."):
            stored = stored.get(part) if isinstance(stored, Mapping) else None
        if any(is_of(key, ok) for ok in CHANGEABLE) or is_moved(key, stored, value) or _is_same(stored, value):
            continue
        forked = f"what compares is taken over by  bayes-merger fork {quoted(name)} NEW {quoted(override)}"
        anew = "with another no score would compare: start anew with  bayes-merger run"
        raise ConfigError(
            f"{key}: {one_line(repr(stored))} cannot become {one_line(repr(value))} on resume; "
            f"{forked if key.partition('.')[0] in FORKED else anew}  (these can change: {', '.join(CHANGEABLE)})"
        )
