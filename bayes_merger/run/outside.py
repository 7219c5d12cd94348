"""Studies whose merges are drawn and judged elsewhere: what they are, and what makes no sense for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.run.attributes import CONFIG, PAYLOADS

if TYPE_CHECKING:
    import optuna

OUTSIDE = "outside"
"""The ``generator.program`` of such a study."""

_DRAWING = (
    "payloads", "images_per_prompt", "scorers", "scoring", "wildcards", "styles", "loras", "embeddings",
)  # fmt: skip
"""Settings that a ready-made run may have, and that are left out of it."""

NOT_HERE = "means nothing where merges are drawn outside; leave it out"


def is_outside(config: Mapping[str, Any]) -> bool:
    """Whether these settings say that merges are drawn elsewhere."""
    return (config.get("generator") or {}).get("program") == OUTSIDE


def check_told(study: optuna.study.Study) -> None:
    """Whether a study's merges are drawn elsewhere: by ``generator=outside``, or asked for from Python.

    Raises:
        ConfigError: it draws them itself.
    """
    if study.user_attrs.get(PAYLOADS) and not is_outside(study.user_attrs.get(CONFIG) or {}):
        raise ConfigError(
            f"study '{study.study_name}': draws its merges itself; begin one to ask and tell with  bayes-merger run "
            "... generator=outside"
        )


def without_drawing(settings: Mapping[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """The settings of a run without what is drawn and who judges, which is not its business.

    Args:
        settings: of the run.
        typed: those that the user has given.

    Raises:
        ConfigError: the user has given some of that.
    """
    for override in typed:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in _DRAWING:
            raise ConfigError(f"{key}: {NOT_HERE}")
    return {**settings, "payloads": {}, "scorers": {}, "images_per_prompt": None}


def check_outside(config: RunConfig) -> None:
    """Whether the settings make sense where nothing is drawn here.

    Raises:
        ConfigError: one is about drawing or judging.
    """
    usual = RunConfig()
    for name in ("objectives", "time_limit", "patience", "images_budget", "images_per_prompt", "pruning", "workers"):
        if getattr(config, name) != getattr(usual, name):
            raise ConfigError(f"{name}: {NOT_HERE}")


def budget_of(study: optuna.study.Study) -> int | None:
    """How many trials a study is to have; ``None`` where a program asks for as many as it likes."""
    config = study.user_attrs.get(CONFIG) or {}
    if not study.user_attrs.get(PAYLOADS) and not is_outside(config):
        return None
    return int(config.get("init_points", 0)) + int(config.get("n_iters", 0))
