"""Settings from Python as they would be typed, so that both are understood alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayes_merger import compose
from bayes_merger.errors import ConfigError
from bayes_merger.scoring.scorer import FunctionScorer, Scorer, check_scorer

NO_MODELS = ("model_a=none", "model_b=none")
"""For settings of which no model counts."""


def words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they would be typed; a list is one of names or numbers.

    >>> words({"alpha": [0.5, 1], "method": "slerp", "space": {"frozen": {"IN00": 0.5}}, "name": None})
    ['alpha=0.5,1', 'method=slerp', 'space.frozen.IN00=0.5', 'name=null']
    """
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += words({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            found.append(f"{key}={_word(value)}")
    return found


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    known = {None: "null", True: "true", False: "false"}
    return known[value] if value is None or isinstance(value, bool) else str(value)


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run; payloads may be names, or tables of fields by name.

    Raises:
        ConfigError: a setting that makes no sense.
    """
    payloads = settings.get("payloads")
    if not isinstance(payloads, Mapping):
        return compose.compose_run(words(settings))
    composed = compose.compose_run(["payloads=[]", *words({k: v for k, v in settings.items() if k != "payloads"})])
    return composed | {"payloads": {name: dict(fields) for name, fields in payloads.items()}}


def scorers_of(given: Any) -> dict[str, Scorer]:
    """Those who judge, by name.

    Args:
        given: one or several: a name as in ``scorers=``, a scorer, or a function that takes a picture of Pillow's and
            returns a number from 0 to 10.

    Raises:
        ConfigError: there is none of that name, or something that is none.
    """
    chosen = list(given) if isinstance(given, list | tuple) else [given]
    names = [one for one in chosen if isinstance(one, str)]
    own = [_as_scorer(one) for one in chosen if not isinstance(one, str)]
    if not chosen:
        raise ConfigError("scorers: none chosen; give at least one, like  scorers='laion'")
    found: dict[str, Scorer] = {}
    if names:
        composed = compose.compose_run([*NO_MODELS, "payloads=[]", f"scorers={','.join(names)}"])
        found = compose.build_scorers(composed["scorers"])
    return found | {(name := getattr(one, "name", "")): check_scorer(f"scorers.{name}", one) for one in own}


def _as_scorer(given: Any) -> Any:
    if callable(given) and not hasattr(given, "score"):
        return FunctionScorer(given, getattr(given, "__name__", "function"))
    return given
