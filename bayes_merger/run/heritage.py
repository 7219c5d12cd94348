"""What a fork takes over from the study that it comes from, and whether their scores compare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from bayes_merger.errors import ConfigError
from bayes_merger.run.attributes import IMAGES
from bayes_merger.run.folder import RunFolder
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.fork import Inheritance, inheritance
from bayes_merger.search.study.study import FINGERPRINT, fingerprint_difference, listed


def heritage_of(study: optuna.study.Study, space: SearchSpace, name: str) -> Inheritance:
    """The trials that a fork with this space takes over.

    Raises:
        ConfigError: there is none.
    """
    heritage = inheritance(study, space)
    if not heritage.trials:
        why = next(iter(heritage.left_out.values()), "it has no finished trial")
        raise ConfigError(f"fork: no trial of '{name}' can be taken over: {why}; start anew with  bayes-merger run")
    return heritage


def check_compares(name: str, new: str, study: optuna.study.Study, mark: Mapping[str, Any]) -> None:
    """Whether the scores of a study compare with those of its fork, whose space may differ."""

    def less_space(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in fingerprint.items() if key != "space"}

    difference = fingerprint_difference(less_space(study.user_attrs[FINGERPRINT]), less_space(mark))
    if difference:
        raise ConfigError(
            f"fork: the scores of '{name}' would not be comparable with those of '{new}': {listed(difference)}. "
            "Undo the change, or start anew with  bayes-merger run"
        )


def taken_over(name: str, heritage: Inheritance) -> str:
    """How many trials are, in a line, and why others are not."""
    taken, left_out = len(heritage.trials), heritage.left_out
    text = f"{taken} of {taken + len(left_out)} trials of {name} taken over"
    if left_out:
        text += f"; left out: {next(iter(left_out.values()))}" + (", and so on" if len(left_out) > 1 else "")
    return text


def with_pictures(trial: Any, old: RunFolder, new: RunFolder) -> Any:
    """The trial with its pictures where they are, as seen from the new folder."""
    attributes = dict(trial.user_attrs)
    kept = old.pictures(attributes.get(IMAGES, []))
    attributes[IMAGES] = [Path(os.path.relpath(path, new.path.resolve())).as_posix() for path in kept]
    trial.user_attrs = attributes
    return trial
