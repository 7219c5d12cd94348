"""Merges that are drawn elsewhere: lent to whoever asks, and taken back with what they got.

Any process may do either: all that is known is in the study. See :mod:`bayes_merger.search.study.lending`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.attributes import FINAL, RECIPE, WEIGHTS
from bayes_merger.run.idle import space_of
from bayes_merger.run.outside import budget_of
from bayes_merger.run.predicted import last_suggestion
from bayes_merger.run.record import Final, chosen_trial, complete_trials, final_of, recipe_of, value_of
from bayes_merger.search.study.history import WORKER
from bayes_merger.search.study.lending import Lender
from bayes_merger.search.study.queue import LastSuggestion

DAY = 24.0
"""Hours after which a merge of which nothing was told is lent again."""


@dataclass(frozen=True)
class Loan:
    """What was asked for.

    Attributes:
        trial: its number; None: there is nothing to draw now.
        weights: weight -> block -> number.
        recipe: of the merge; None where the study knows no models.
        until: seconds since 1970 at which it is asked for again if nothing was told.
        done: how many trials are finished.
        budget: how many there will be; None: as many as are asked for.
        over: whether there will be no more.
    """

    trial: int | None
    weights: Mapping[str, Mapping[str, float]]
    recipe: MergeRecipe | None
    until: float | None
    done: int
    budget: int | None
    over: bool


@dataclass(frozen=True)
class Told:
    """What has become of a trial that was told.

    Attributes:
        trial: the number that it stands under; another one if its time was over.
        done: how many trials are finished.
        budget: how many there will be; None: as many as are asked for.
        over: whether there will be no more.
        best: number of the best trial so far.
        value: its score.
    """

    trial: int
    done: int
    budget: int | None
    over: bool
    best: int | None
    value: float | None


def lend(study: optuna.study.Study, borrower: str = "", hours: float = DAY) -> Loan:
    """The next merge to draw, or the one that this borrower has.

    Args:
        study: opened for writing, with its sampler.
        borrower: what they call themselves; who asks again under a name gets the same merge until they tell.
        hours: after which it is asked for again if nothing was told.

    Raises:
        ConfigError: hours that make no sense.
    """
    if not 0 < hours <= 8760:
        raise ConfigError(f"hours: {hours:g} is not between 0 and 8760, a year; give a number like  24")
    budget = budget_of(study)
    lender = Lender(study, space_of(study), borrower, 3600 * hours, last_of(study))
    trial = lender.lend(sys.maxsize if budget is None else budget)
    over = conclude(study, lender.done)  # whoever told the last one may have been killed before that
    if trial is None:
        return Loan(None, {}, None, None, lender.done, budget, over)
    until, recipe = float(trial.user_attrs[WORKER]["until"]), recipe_if_known(study, trial)
    return Loan(trial.number, trial.user_attrs[WEIGHTS], recipe, until, lender.done, budget, over)


def recipe_if_known(study: optuna.study.Study, trial: optuna.trial.FrozenTrial) -> MergeRecipe | None:
    """The recipe of a trial's merge; None where the study knows no models."""
    return recipe_of(study, trial) if study.user_attrs[RECIPE].get("models") else None


def last_of(study: optuna.study.Study) -> LastSuggestion:
    """What makes the last suggestion: of a budget, the merge of which most is expected."""
    return last_suggestion(study, lambda note: None) if budget_of(study) is not None else lambda total: None


def take_back(study: optuna.study.Study, number: int, score: float | None, reason: str = "") -> Told:
    """What a merge got: a score, greater is better; or none, and why. The same once more changes nothing.

    Raises:
        ConfigError: no such trial, or a score that is no number.
        Closed: it was told otherwise already, or nobody asked for it.
    """
    outcome = Lender(study, space_of(study)).take_back(number, score, reason)
    budget, over = budget_of(study), conclude(study, outcome.done)
    best = max(complete_trials(study), key=value_of, default=None)
    known = (best.number, value_of(best)) if best else (None, None)
    return Told(outcome.number, outcome.done, budget, over, *known)


def conclude(study: optuna.study.Study, done: int) -> bool:
    """Whether the budget is used up; the study is over then, and its best merge is chosen.

    Args:
        study: whose trial was told.
        done: how many are finished.
    """
    budget = budget_of(study)
    over = budget is not None and done >= budget
    if over and complete_trials(study) and not final_of(study):
        study.set_user_attr(FINAL, Final(chosen_trial(study).number, 0, (), ()).to_json())
    return over
