"""What a run's log says that its screen does not: what it was drawn with, and where the time went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from bayes_merger.errors import printable
from bayes_merger.report.timing import timing, words_of
from bayes_merger.run.attributes import CONFIG, RECIPE, VERSIONS
from bayes_merger.run.record import complete_trials
from bayes_merger.search.study.stopping import time_text


def began_with(stored: Mapping[str, Any]) -> Iterator[str]:
    """The versions and the device, the models with their hashes, and all settings, a line each.

    Args:
        stored: the study's attributes.
    """
    yield "versions  " + ", ".join(printable(f"{name} {found}") for name, found in (stored.get(VERSIONS) or {}).items())
    for name, model in (stored.get(RECIPE) or {}).get("models", {}).items():
        yield printable(f"model {name.upper()}  {model['path']}  SHA-256 {model['sha256']}", longest=1000)
    yield printable(f"settings  {json.dumps(stored.get(CONFIG), ensure_ascii=False)}", longest=100_000)


def took(study: optuna.study.Study) -> str:
    """Where the time of a trial went: ``a trial takes 27 s: drawing 25 s, scoring 2 s``; empty before any is known."""
    parts = timing(complete_trials(study))
    each = ", ".join(f"{words_of(part)} {time_text(seconds)}" for part, seconds in parts.items() if seconds >= 0.05)
    return f"a trial takes {time_text(sum(parts.values()))}: {each}" if parts else ""
