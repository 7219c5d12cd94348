"""What a study remembers: its trials, the winner, the recipe of any trial. Light: no torch, no diffusers.

User attributes of the study: ``config`` (the settings), ``recipe`` (models, method, dtype), ``payloads`` (resolved),
``fingerprint``, ``final`` (the final round, once there was one). Of a trial: ``weights``, ``scores`` (raw), ``images``
(relative paths), ``reason`` (of a failure).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna

from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe import MergeRecipe, ModelRef


@dataclass(frozen=True)
class Row:
    """One line of the closing table.

    Attributes:
        name: ``best merge``, ``model A``, ``model B``, ``even mix``.
        mean: points, mean over the fresh pictures weighted by the payloads' importance.
        error: standard error of that mean; ``None`` for a single picture.
        behind: how far the row lies behind the winner, mean over the same prompts and seeds; 0 for the winner.
        behind_error: standard error of ``behind``, from the differences picture by picture.
    """

    name: str
    mean: float
    error: float | None
    behind: float
    behind_error: float | None


@dataclass(frozen=True)
class Final:
    """The end of a run.

    Attributes:
        winner: number of the trial that is taken home.
        images: fresh pictures per row; 0 when there was no final round.
        rescored: trial number to its mean on the first set of fresh seeds.
        rows: the closing table, winner first.
    """

    winner: int
    images: int
    rescored: dict[int, float]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for the study."""
        return {
            "winner": self.winner,
            "images": self.images,
            "rescored": {str(number): value for number, value in self.rescored.items()},
            "rows": [vars(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Final:
        """The inverse of ``to_json``."""
        return cls(
            winner=data["winner"],
            images=data["images"],
            rescored={int(number): value for number, value in data["rescored"].items()},
            rows=tuple(Row(**row) for row in data["rows"]),
        )


def complete_trials(study: optuna.study.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have a value, in order."""
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def best_value(study: optuna.study.Study) -> float | None:
    """The best value so far, ``None`` before the first."""
    return max((trial.value for trial in complete_trials(study) if trial.value is not None), default=None)


def mean_scores(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Mean raw value of each scorer, from raw scores as stored."""
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score["scorer"], []).append(score["value"])
    return {name: sum(found) / len(found) for name, found in values.items()}


def chosen_trial(study: optuna.study.Study) -> optuna.trial.FrozenTrial:
    """The trial to take home: the final round's winner, else the best score.

    Raises:
        ConfigError: no trial is finished.
    """
    trials = complete_trials(study)
    if not trials:
        raise ConfigError(f"study '{study.study_name}' has no finished trial yet")
    final = final_of(study)
    if final:
        return next(trial for trial in trials if trial.number == final.winner)
    return max(trials, key=lambda trial: (trial.value or 0.0, -trial.number))


def trial_of(study: optuna.study.Study, number: int | None) -> optuna.trial.FrozenTrial:
    """A finished trial by its number, or the one to take home.

    Raises:
        ConfigError: there is no such finished trial.
    """
    if number is None:
        return chosen_trial(study)
    for trial in complete_trials(study):
        if trial.number == number:
            return trial
    raise ConfigError(f"study '{study.study_name}' has no finished trial {number}")


def final_of(study: optuna.study.Study) -> Final | None:
    """The stored final round, if the run came to its end."""
    data = study.user_attrs.get("final")
    return Final.from_json(data) if data else None


def recipe_of(study: optuna.study.Study, trial: optuna.trial.FrozenTrial) -> MergeRecipe:
    """The recipe of a trial's merge, rebuilt from the study alone."""
    base = study.user_attrs["recipe"]
    models = {name: ModelRef(**model) for name, model in base["models"].items()}
    return MergeRecipe(
        method=base["method"],
        models=models,
        weights=trial.user_attrs["weights"],
        architecture=base["architecture"],
        dtype=base["dtype"],
        vae=base["vae"],
        elements=tuple(base.get("elements", ())),
        compat=base.get("compat", ""),
        options=base.get("options", {}),
    )


def state_of(study: optuna.study.Study) -> str:
    """``done``, or ``unfinished`` when ``resume`` has something to do."""
    return "done" if "final" in study.user_attrs else "unfinished"
