"""Whole runs from Python, as the command line does them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayes_merger import compose, session
from bayes_merger.api.words import settings_of, words


def begin(**settings: Any) -> str:
    """Start a new study and run it to its end; what goes on is printed, a line for each trial.

    For example::

        name = begin(model_a="A.safetensors", model_b="B.safetensors", payloads="portrait", scorers="laion", n_iters=60)

    Args:
        settings: those of ``bayes-merger run``; payloads may be tables of fields by name.

    Returns:
        The study's name, which ``load_study``, ``merge`` and ``resume`` take.

    Raises:
        ConfigError: a setting that makes no sense, or the study exists.
        CheckpointError: a model file that cannot be used.
        Interrupted: Ctrl-C, once for the end of the trial, twice for at once.
        Paused: the person who scores went away.
    """
    return session.begin(settings_of(settings), named="name" in settings).name


def resume(name: str, *, runs: str | Path = "runs", **settings: Any) -> str:
    """Go on with a study, as if it had never been interrupted; or with more trials or time.

    Args:
        name: of the study, or how it alone begins; ``-`` is the newest.
        runs: the folder of all studies.
        settings: those that change, like ``n_iters=100``.

    Returns:
        The study's name.

    Raises:
        ConfigError: no such study, or settings that would make its scores incomparable.
        CheckpointError: a model file that cannot be used.
        Interrupted: as :func:`begin`.
        Paused: as :func:`begin`.
    """
    return session.resume(name, [compose.in_full(word) for word in words(settings)], runs=runs).name
