"""One line of the ledger: a rating, or what a person said of a whole trial; it is checked, since people send them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["score", "repeat", "void", "undo", "later", "confirm", "prefer"]


@dataclass(frozen=True)
class Rating:
    """One rating of one picture, or something else that a person decided.

    Attributes:
        id: of this line.
        kind: `score`; `repeat`, a score of a picture that was shown again to measure the rater; `void` for what cannot
            be judged (broken, not bad); `undo`; of a whole trial `later` and `confirm`; `prefer` of two merges'
            pictures.
        candidate: opaque id of the merge.
        payload: name of the payload; empty for a whole trial.
        index: which picture of it.
        score: 0 to 10 for a score or a repeat; for `prefer` 1 if this merge's picture is better, 0 if the other's is,
            0.5 for neither; else None.
        seed: of the picture, None where unknown.
        undoes: id of the line an `undo` takes back.
        ms: time until the answer, in milliseconds.
        rater: the person who rated.
        time: when, UTC, ISO 8601.
        trial: number of the trial in whose turn it was said, None where there is none.
        other: for `prefer`, the merge it was compared with.
    """

    id: str
    kind: Kind
    candidate: str
    payload: str
    index: int
    score: float | None = None
    seed: int | None = None
    undoes: str | None = None
    ms: int | None = None
    rater: str = ""
    time: str = ""
    trial: int | None = None
    other: str | None = None

    def line(self) -> bytes:
        """As it stands in the ledger."""
        entry = {key: value for key, value in vars(self).items() if value not in (None, "")}
        return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parsed(line: bytes) -> Rating | None:
    """The rating in a line; None if it is incomplete or no rating. Fields of a later version are left out."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, Mapping):
        return None
    known: dict[str, Any] = {"payload": "", "index": 0} | {key: entry[key] for key in _FORMS if key in entry}
    if not {"id", "kind", "candidate"} <= known.keys() or not all(_FORMS[key](value) for key, value in known.items()):
        return None
    return Rating(**known) if known["kind"] not in ("score", "repeat", "prefer") or "score" in known else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 10


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "id": _is_text, "kind": lambda value: value in get_args(Kind), "candidate": _is_text, "payload": _is_text,
    "index": _is_whole, "score": _is_score, "seed": _is_whole, "undoes": _is_text, "ms": _is_whole, "rater": _is_text,
    "time": _is_text, "trial": _is_whole, "other": _is_text,
}  # fmt: skip
