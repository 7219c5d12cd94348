"""What a run writes on a trial: whatever else stands under one of these names is as good as missing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from bayes_merger.search.study.history import (
    AWAITING,
    DEATHS,
    ESTIMATE,
    FORKED_FROM,
    ORIGIN,
    PHASE,
    PICTURES,
    REASON,
    RETRY_OF,
    ROW,
    VARIANCE,
    WORKER,
)
from bayes_merger.search.study.stopping import SECONDS

LARGEST = 1e100
"""No score is greater than this: its square is a number still."""


def is_sound(key: str, value: Any) -> bool:
    """Whether a run may have written this under that name; any other name is nobody's business but its writer's."""
    return key not in _SOUND or _SOUND[key](value)


def is_number(value: Any) -> bool:
    """Whether it is a number whose square is one still."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not


def _is_count(value: Any) -> bool:
    return _is_whole(value) and 0 <= value < 2**31


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_moment(value: Any) -> bool:
    """Whether it is a time that a clock can show, or none."""
    try:
        return value is None or math.isfinite(value.timestamp())
    except (AttributeError, OverflowError, ValueError, OSError):
        return False


def _is_duration(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1e9


def _are_durations(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_duration, value.values()))


def _are_pictures(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_picture, value))


def _is_picture(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _OF_A_PICTURE
        and isinstance(value["scorer"], str)
        and isinstance(value["payload"], str)
        and _is_count(value["index"])
        and _is_whole(value["seed"])
        and is_number(value["value"])
    )


_OF_A_PICTURE = {"scorer", "payload", "index", "seed", "value"}


def _is_whole(value: Any) -> bool:
    return type(value) is int  # a truth value is none


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_worker(value: Any) -> bool:
    """Its id becomes part of a file's name."""
    return (
        isinstance(value, dict)
        and _is_text(value.get("host"))
        and bool(re.fullmatch(r"[0-9a-f]{1,64}", str(value.get("id"))))
        and is_number(value.get("until", 0))
    )


def _is_awaited(value: Any) -> bool:
    """What a person is asked for; its ids and names become parts of the ledger's lines, its files are looked up."""
    forms = {"candidate": _is_text, "payload": _is_text, "index": _is_count, "seed": _is_whole, "image": _is_text}
    return (
        isinstance(value, dict)
        and _is_text(value.get("scorer"))
        and _is_text(value.get("candidate"))
        and _is_count(value.get("place"))
        and all(isinstance(value.get(key), list) for key in ("pictures", "repeats"))
        and all(
            isinstance(one, dict) and one.keys() == forms.keys() and all(forms[key](one[key]) for key in forms)
            for one in [*value["pictures"], *value["repeats"]]
        )
    )


_SOUND: Mapping[str, Callable[[Any], bool]] = {
    PHASE: _is_text,
    ROW: _is_count,
    ORIGIN: _is_count,
    RETRY_OF: _is_count,
    DEATHS: _is_count,
    WORKER: _is_worker,
    REASON: _is_text,
    ESTIMATE: is_number,
    AWAITING: _is_awaited,
    VARIANCE: lambda value: is_number(value) and value >= 0,
    "times": _are_durations,
    SECONDS: _is_duration,
    PICTURES: _are_pictures,
    "images": _are_texts,
    "points": is_number,
    FORKED_FROM: lambda value: isinstance(value, dict),
}
"""What a run writes on a trial; other attributes are nobody's business but their writer's."""
