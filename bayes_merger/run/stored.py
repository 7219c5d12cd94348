"""What a study holds besides its trials, checked before anybody relies on it: others may have sent its database.

Trials are looked at one by one, in :mod:`bayes_merger.search.study.checked`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from optuna.study import Study

from bayes_merger.errors import ConfigError, one_line
from bayes_merger.imaging.payload import Payload
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.attributes import CONFIG, MOST, PAYLOADS, RECIPE, SCORERS, STANDARDS, VERSIONS
from bayes_merger.run.points import combination_of
from bayes_merger.run.versions import are_versions
from bayes_merger.scoring.scorer import check_importance, check_scale
from bayes_merger.search.study.history import FINGERPRINT
from bayes_merger.search.study.stopping import PATIENT_FROM, STOPPED


def check_stored(study: Study) -> None:
    """Refuse a study whose own attributes are not what a run writes.

    Raises:
        ConfigError: naming the first such attribute.
    """
    attributes = study.user_attrs
    for key, check in _CHECKS.items():
        try:
            if attributes.get(key) is not None or key == RECIPE or (key == CONFIG and key in attributes):
                check(attributes[key])
            if key == SCORERS:  # what it goes by has been checked before
                combination_of(study)
        except Exception as error:  # it may be anything, and so may what it does to whoever looks at it
            told = f"there is no {error}" if isinstance(error, KeyError) else one_line(error)
            raise ConfigError(
                f"study '{study.study_name}': its '{key}' is not what a run writes ({told}); put a copy of its "
                "database in its place"
            ) from error


def is_table(value: Any, **forms: type | tuple[type, ...]) -> bool:
    """Whether this is a mapping in which each of these fields is there and of its type; a number is finite."""
    return isinstance(value, Mapping) and all(key in value and is_a(value[key], form) for key, form in forms.items())


def is_a(value: Any, form: type | tuple[type, ...]) -> bool:
    """Whether a value is of a type; a truth value is no number, and neither is an infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, form) and (not isinstance(value, bool) or form is bool)


def _require(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)


def _check_config(value: Any) -> None:
    _require(isinstance(value, Mapping), "no table")
    texts: Collection[str] = value.get("objectives") or ()
    _require(isinstance(texts, list | tuple) and all(map(_is_text, texts)), "objectives")
    for key in ("init_points", "n_iters"):
        _require(is_a(value.get(key, 0), int), key)
    seed = value.get("seed") or 0
    _require(is_a(seed, int) and seed >= 0, "seed")
    for key in ("optimiser", "recipe", "scorers", "payloads"):
        _require(isinstance(value.get(key) or {}, Mapping), key)
    _require(_is_text((value.get("optimiser") or {}).get("_target_", "")), "optimiser")
    _require(_is_text(value.get("method") or ""), "method")
    scoring = value.get("scoring") or {}
    _require(isinstance(scoring, Mapping) and is_a(scoring.get("playoff", 0), int), "scoring")
    _require(scoring.get("unit", "picture") in ("picture", "trial"), "scoring.unit")
    steps = (value.get("recipe") or {}).get("steps") or []
    _require(isinstance(steps, list) and all(map(_has_method, steps)), "recipe.steps")


def _has_method(step: Any) -> bool:
    return isinstance(step, Mapping) and _is_text(step.get("method", ""))


def _check_recipe(value: Any) -> None:
    recipe = MergeRecipe.from_json({**value, "weights": {}})
    _require(bool(recipe.architecture_blocks.blocks), "architecture")


def _check_payloads(value: Any) -> None:
    _require(isinstance(value, list), "no list")
    for one in value:
        check_importance("payload", Payload.from_json(one).importance)


def _check_standards(value: Any) -> None:
    for name, scale in value.items():
        check_scale(name, scale)


def _check_scorers(value: Any) -> None:
    for name, (importance, scale) in value.items():
        check_importance(name, importance)
        check_scale(name, scale)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    CONFIG: _check_config,
    RECIPE: _check_recipe,
    PAYLOADS: _check_payloads,
    STANDARDS: _check_standards,
    SCORERS: _check_scorers,
    FINGERPRINT: lambda value: _require(isinstance(value, Mapping), "no table"),
    PATIENT_FROM: lambda value: _require(is_a(value, int), "no number"),
    MOST: lambda value: _require(is_a(value, int) and value > 0, "no number of pictures"),
    STOPPED: lambda value: _require(_is_text(value), "no text"),
    VERSIONS: lambda value: _require(are_versions(value), "no versions"),
}
