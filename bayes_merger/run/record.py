"""What a study remembers: its trials, the winner, the recipe of any trial. Light: no torch, no diffusers.

User attributes of the study: ``config`` (the settings), ``recipe`` (models, method, dtype), ``payloads`` (resolved),
``judges`` (scorer -> importance and scale), ``fingerprint``, ``stopped`` (why the search ended early), ``drawn:...``
(what the final round has drawn so far), ``final`` (the final round, once there was one). Of a trial: ``weights``,
``scores`` (raw), ``images`` (relative paths), ``seconds``, ``points`` (the weighted sum, where there are several
objectives), ``reason`` (of a failure, or for being cut short).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.errors import BayesMergerError, ConfigError, and_more
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.attributes import CONFIG, FINAL, POINTS, RECIPE, SCORES, WEIGHTS
from bayes_merger.run.champion import play_off_of
from bayes_merger.run.points import combination_of
from bayes_merger.run.stored import is_a, is_table
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.study.checked import CheckedStudy, answered_once
from bayes_merger.search.study.history import origin, rater_variance
from bayes_merger.search.surrogates.grid_gp import every
from bayes_merger.search.surrogates.posterior import StudyPosterior, study_posterior

PICTURED = 400
"""The noise is read from the pictures of at most so many trials."""

WINNER = "best merge"
"""The name of the winner's row in the closing table."""

ENOUGH = 8
"""With fewer pictures a standard error is itself a guess, and no lead is told in standard errors."""


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the closing table.

    Attributes:
        name: ``best merge``, ``model A``, ``model B``, ``even mix``; of more than three models also ``model C``,
            ``model D``, ..., and ``even mix of A and B``.
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
class Rescored:
    """One of the best trials, drawn again.

    Attributes:
        trial: its number.
        mean: points on the fresh pictures.
        error: standard error of that mean; ``None`` for a single picture.
        objectives: the same for each objective, where there are several.
        objective_errors: theirs.
    """

    trial: int
    mean: float
    error: float | None
    objectives: tuple[float, ...] = ()
    objective_errors: tuple[float | None, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Rescored:
        """From plain data."""
        return cls(
            data["trial"],
            data["mean"],
            data["error"],
            tuple(data.get("objectives", ())),
            tuple(data.get("objective_errors", ())),
        )


@dataclass(frozen=True)
class Final:
    """The end of a run.

    Attributes:
        winner: number of the trial that is exported.
        images: fresh pictures per row; 0 when there was no final round.
        rescored: the best trials on the first set of fresh seeds, in the order they were drawn.
        rows: the closing table, winner first.
    """

    winner: int
    images: int
    rescored: tuple[Rescored, ...]
    rows: tuple[ComparisonRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for the study."""
        return {
            "winner": self.winner,
            "images": self.images,
            "rescored": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in vars(one).items()}
                for one in self.rescored
            ],
            "rows": [vars(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Final:
        """The inverse of ``to_json``."""
        found = data["rescored"]
        if isinstance(found, dict):  # an older study's: trial -> mean
            found = [{"trial": int(number), "mean": mean, "error": None} for number, mean in found.items()]
        return cls(
            winner=data["winner"],
            images=data["images"],
            rescored=tuple(Rescored.from_json(one) for one in found),
            rows=tuple(ComparisonRow(**row) for row in data["rows"]),
        )


@answered_once
def complete_trials(study: optuna.study.Study) -> Sequence[optuna.trial.FrozenTrial]:
    """The trials that have a value, in order; one that was interrupted and drawn anew stands where it first stood."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: (origin(trial), trial.number))


def value_of(trial: optuna.trial.FrozenTrial) -> float:
    """A trial's points as one number: of several objectives the weighted sum of all scorers."""
    values = trial.values
    if not values:
        raise ValueError(f"trial {trial.number} has no score")
    return float(values[0] if len(values) == 1 else trial.user_attrs.get(POINTS, sum(values) / len(values)))


def best_value(study: optuna.study.Study) -> float | None:
    """The best value so far, ``None`` before the first."""
    return max((value_of(trial) for trial in complete_trials(study)), default=None)


def objectives_of(study: optuna.study.Study) -> list[str]:
    """The objectives by name; empty when there is one number."""
    count = len(study.directions)
    names = list(study.user_attrs.get(CONFIG, {}).get("objectives") or ())
    return names if len(names) == count > 1 else [f"objective {i + 1}" for i in range(count)] if count > 1 else []


@answered_once
def front_of(study: optuna.study.Study) -> list[optuna.trial.FrozenTrial]:
    """The Pareto front: the trials that no other one beats in every objective; best in the first objective first."""
    return sorted(study.best_trials, key=lambda trial: ([-value for value in trial.values], trial.number))


@answered_once
def posterior_of(study: optuna.study.Study) -> StudyPosterior:
    """What all scores together say of each trial; see :mod:`bayes_merger.search.surrogates.posterior`."""
    return posterior_from(study, complete_trials(study))


def posterior_from(study: optuna.study.Study, trials: Sequence[optuna.trial.FrozenTrial]) -> StudyPosterior:
    """What the scores of some trials of a study say of each of these."""
    known = combination_of(study)
    pictures = []
    for trial in trials[every(len(trials), PICTURED)] if known.judges and known.payloads else ():
        try:
            scores = [Score(**score) for score in trial.user_attrs.get(SCORES) or ()]
            pictures.append(known.picture_points(scores))
        except BayesMergerError:
            continue  # of other scorers or payloads than the study's
    pictures = [points for points in pictures if points]  # a trial that others have put there may have none
    return study_posterior(trials, [value_of(trial) for trial in trials], pictures, rater_variance(trials))


def mean_scores(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Mean raw value of each scorer, from raw scores as stored."""
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score["scorer"], []).append(score["value"])
    return {name: sum(found) / len(found) for name, found in values.items()}


@answered_once
def chosen_trial(study: optuna.study.Study) -> optuna.trial.FrozenTrial:
    """The trial to export: a play-off's champion, else the final round's winner, else the best posterior mean.

    Of several objectives it is the one of the Pareto front with the best weighted sum.

    Raises:
        ConfigError: no trial is finished.
    """
    trials = complete_trials(study)
    if not trials:
        raise ConfigError(f"study '{study.study_name}' has no finished trial yet")
    numbers = {trial.number for trial in trials}
    played, final = play_off_of(study, numbers), final_of(study)
    taken = played.champion if played and played.champion is not None else final.winner if final else None
    if taken is not None:
        return next(trial for trial in trials if trial.number == taken)
    if len(study.directions) > 1:
        return max(front_of(study), key=lambda trial: (value_of(trial), -trial.number))
    best = posterior_of(study).best
    return next(trial for trial in trials if best is None or trial.number == best.trial)


def trial_of(study: optuna.study.Study, number: int | None) -> optuna.trial.FrozenTrial:
    """A finished trial by its number, or the one to export.

    Raises:
        ConfigError: there is no such finished trial.
    """
    if number is None:
        return chosen_trial(study)
    for trial in complete_trials(study):
        if trial.number == number:
            return trial
    raise ConfigError(f"study '{study.study_name}' has no finished trial {number}")


def begun_trial(study: optuna.study.Study, number: int | None) -> optuna.trial.FrozenTrial:
    """A trial whose merge is known, by its number, whether or not it has a score; or the one to export.

    Raises:
        ConfigError: there is no such trial, or it waits.
    """
    if number is None:
        return chosen_trial(study)
    for trial in study.get_trials(deepcopy=False):
        if trial.number == number and WEIGHTS in trial.user_attrs:
            return trial
    raise ConfigError(f"study '{study.study_name}' has no trial {number} that has begun")


@answered_once
def final_of(study: optuna.study.Study) -> Final | None:
    """The stored final round, if the run came to its end; one that is not what a run writes is to be drawn again."""
    return final_about(study, {trial.number for trial in complete_trials(study)})


def final_about(study: optuna.study.Study, numbers: Container[int]) -> Final | None:
    """The same, where it is known which trials have a score: these numbers."""
    try:
        final = Final.from_json(study.user_attrs[FINAL])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return final if _is_sound(final, numbers, len(study.directions)) else None


def _is_sound(final: Final, trials: Container[int], objectives: int) -> bool:
    """Whether a final round is about trials that are there, and all its numbers are numbers."""
    number, number_or_none = (int, float), (int, float, type(None))
    return (
        is_table(vars(final), winner=int, images=int)
        and final.winner in trials
        and all(
            is_table(vars(one), trial=int, mean=number, error=number_or_none)
            and one.trial in trials
            and (objectives == 1 or len(one.objectives) == len(one.objective_errors) == objectives)
            and all(is_a(value, number) for value in one.objectives)
            and all(is_a(value, number_or_none) for value in one.objective_errors)
            for one in final.rescored
        )
        and all(
            is_table(vars(row), name=str, mean=number, error=number_or_none, behind=number, behind_error=number_or_none)
            and row.name.isprintable()
            for row in final.rows
        )
    )


def recipe_of(study: optuna.study.Study, trial: optuna.trial.FrozenTrial) -> MergeRecipe:
    """The recipe of a trial's merge, rebuilt from the study alone."""
    return recipe_with(study, trial.user_attrs[WEIGHTS])


def recipe_with(study: optuna.study.Study, weights: BlockWeights, note: str = "") -> MergeRecipe:
    """The recipe of a merge with these weights, and what its recipe says of it."""
    recipe = MergeRecipe.from_json({**study.user_attrs[RECIPE], "weights": weights})
    return replace(recipe, note=note)


def state_of(study: optuna.study.Study) -> str:
    """``done``, or ``unfinished`` when ``resume`` has something to do."""
    return "done" if final_of(study) else "unfinished"


def left_out(study: optuna.study.Study) -> str:
    """In a line, the trials that another program has put into the study and that cannot be used; empty if none."""
    found = study.left_out() if isinstance(study, CheckedStudy) else {}
    if not found:
        return ""
    numbers = and_more([str(number) for number in found], listed=5)
    return f"not this study's own and left out: trial {numbers} ({next(iter(found.values()))})"
