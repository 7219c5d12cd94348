"""The scorers that settings name, built and looked at, not loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayes_merger.compose.building import build
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.scoring.scorer import Scorer, check_scorer


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
    for name in settings:
        if name not in chosen:  # its importance was given, and nothing else
            raise ConfigError(f"scorers.{name}: no such scorer is chosen; {nearest(name, chosen)}")
    return {name: _scorer(name, given) for name, given in settings.items()}


def _scorer(name: str, given: Any) -> Scorer:
    if not isinstance(given, dict):
        raise ConfigError(f"scorers.{name}: needs a mapping with a _target_, not {given!r}")
    return check_scorer(f"scorers.{name}", build(f"scorers.{name}", {"name": name, **given}))
