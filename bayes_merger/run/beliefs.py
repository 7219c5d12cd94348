"""The best posterior mean while a search runs, at a bounded cost however many trials and workers there are."""

from __future__ import annotations

from typing import Any

import optuna

from bayes_merger.run.attributes import BELIEVED
from bayes_merger.run.record import complete_trials, posterior_from
from bayes_merger.run.stored import is_table
from bayes_merger.search.surrogates.posterior import StudyPosterior, TrialPosterior


def running_posterior(study: optuna.study.Study) -> StudyPosterior:
    """The posterior of the best trial alone, for whoever looks after every trial.

    Up to 200 trials it is that of all finished trials. Beyond, it is of the last full hundredth of them, computed by
    whichever worker is the first to need it and stored for the others; so it is a function of the trials, and a process
    that was killed goes on with the same.
    """
    trials = complete_trials(study)
    step = max(1, len(trials) // 100)
    count = len(trials) - len(trials) % step
    numbers = {trial.number for trial in trials}
    if step > 1 and (known := _read(study.user_attrs.get(BELIEVED), count)) and known.each[0].trial in numbers:
        return known
    found = posterior_from(study, trials[:count])
    best = StudyPosterior(tuple(one for one in (found.best,) if one), found.noise, found.fitted)
    if step > 1 and best.best:
        study.set_user_attr(BELIEVED, {"trials": count, **vars(best.best), "noise": best.noise, "fitted": best.fitted})
    return best


def _read(stored: Any, count: int) -> StudyPosterior | None:
    """What was stored of so many trials; None if it is of others, or not what a run writes."""
    number = (int, float)
    if not is_table(stored, trials=int, trial=int, observed=number, mean=number, sd=number, noise=number, fitted=bool):
        return None
    if stored["trials"] != count:
        return None
    best = TrialPosterior(stored["trial"], stored["observed"], stored["mean"], stored["sd"])
    return StudyPosterior((best,), stored["noise"], stored["fitted"])
