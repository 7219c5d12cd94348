"""The scorers that settings name, built and looked at, not loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from bayes_merger.compose.building import build
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.scoring.scorer import FunctionScorer, Scorer, check_scorer


def build_scorers(settings: Mapping[str, Any]) -> dict[str, Scorer]:
    """The scorers by name.

    Args:
        settings: name -> what it is built from.

    Raises:
        ConfigError: there is none, or one that cannot be built or is none.
    """
    if not settings:
        raise ConfigError("scorers: none chosen; give at least one, like  scorers=laion")
    chosen = [name for name, given in settings.items() if not isinstance(given, dict) or "_target_" in given]
    for name, given in settings.items():
        if name not in chosen:
            if given.keys() - {"importance", "scale"}:
                raise ConfigError(f"scorers.{name}: its YAML needs a _target_, the dotted name of what to build")
            # its importance was given, and nothing else
            raise ConfigError(f"scorers.{name}: no such scorer is chosen; {nearest(name, chosen)}")
    return {name: _scorer(name, given) for name, given in settings.items()}


def _scorer(name: str, given: Any) -> Scorer:
    if not isinstance(given, dict):
        raise ConfigError(f"scorers.{name}: needs a mapping with a _target_, not {given!r}")
    setting = f"scorers.{name}"
    target = build(setting, {key: given[key] for key in ("_target_",) if key in given}, _partial_=True).func
    if _takes_name(target):
        return check_scorer(setting, build(setting, {"name": name, **given}))
    if not inspect.isfunction(target):
        raise ConfigError(
            f"{setting}: {target.__name__} takes no name=, which every scorer is given; inherit "
            "bayes_merger.scoring.ScorerBase, or name a function of a picture, or of a picture and its prompt"
        )
    about = {key: given[key] for key in ("importance", "scale") if key in given}
    judge = build(setting, {key: value for key, value in given.items() if key not in about}, _partial_=True)
    return check_scorer(setting, FunctionScorer(judge, name, **about))


def _takes_name(target: Any) -> bool:
    """Whether what builds a scorer takes its name; a function that does not is a scorer itself."""
    try:
        known = inspect.signature(target).parameters
    except ValueError:  # written in C
        return True
    return "name" in known or any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
