"""How long a run still takes, from the trials that it has finished."""

from __future__ import annotations

import statistics

import optuna

from bayes_merger.run.final import final_round_trials
from bayes_merger.run.setup import RunSetup
from bayes_merger.search.study.stopping import SECONDS, read_time, worked

_RECENT = 10  # trials; the machine may have other work than it had at first


def seconds_left(setup: RunSetup, study: optuna.study.Study, done: int) -> float | None:
    """Seconds until the run is over, its final round included; None before the first finished trial.

    With ``s`` seconds for the usual one of the last trials and ``w`` workers::

        left = s * (trials left / w + final round's), and no more than what is left of time_limit

    Args:
        setup: the run.
        study: as stored.
        done: how many trials are finished.
    """
    took = seconds_of(study)
    return seconds_for(setup, study, statistics.median(took[-_RECENT:]), done) if took else None


def seconds_of(study: optuna.study.Study) -> list[float]:
    """How long each trial with a score took."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return [trial.user_attrs[SECONDS] for trial in trials if isinstance(trial.user_attrs.get(SECONDS), int | float)]


def seconds_for(setup: RunSetup, study: optuna.study.Study, each: float, done: int) -> float:
    """Seconds until the run is over if a trial takes ``each``; see :func:`seconds_left`."""
    config = setup.config
    left = max(setup.trials - done, 0)
    expected = each * (left / config.workers + final_round_trials(setup))
    limit = read_time(config.time_limit)
    return float(expected if limit is None else min(expected, max(limit - worked(study), 0.0)))
