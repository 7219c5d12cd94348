"""When a search has done enough: rules that look at nothing but the stored study.

Every worker asks the same study before its next trial and gets the same answer; a killed run continues counting
where it stopped. The number of trials is not checked here: the queue itself enforces it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.study.history import PHASE
from bayes_merger.search.surrogates.posterior import StudyPosterior

SECONDS = "seconds"
"""User attribute of a trial: how long a worker was busy with it, from choosing it to storing its score."""

STOPPED = "stopped"
"""User attribute of a study: why its search ended before its trials were used up; None or absent while it goes on."""

PATIENT_FROM = "patient_from"
"""User attribute of a study: so many trials were finished when the user last asked for more of it."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_TOLD = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Rules:
    """What ends a search besides the number of its trials.

    Attributes:
        seconds: of work on the study, over all its sessions; None: any.
        reserve: how many trials' time is to be left for what comes after the search.
        patience: so many trials in a row without an improvement; None: any.
    """

    seconds: float | None = None
    reserve: float = 0.0
    patience: int | None = None


def read_time(text: str | float | None, name: str = "time_limit") -> float | None:
    """A time such as ``2h``, ``90m``, ``1h30m``, ``1.5h`` or a number of seconds, in seconds.

    Raises:
        ConfigError: if it is not a duration above 0.
    """
    if text is None:
        return None
    compact = re.sub(r"\s+", "", str(text)).lower()
    found = re.findall(r"(\d+(?:\.\d+)?)([dhms])", compact)
    if found and "".join(number + unit for number, unit in found) == compact:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in found)
    else:
        try:
            seconds = float(compact)
        except ValueError:
            seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{name}: {text!r} is not a duration; use e.g. 2h, 90m, 1h30m or 3600 (seconds)")
    return seconds


def time_text(seconds: float) -> str:
    """A duration in words.

    >>> time_text(5400), time_text(75), time_text(8.25)
    ('1 h 30 min', '1 min 15 s', '8.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60 if whole < 3600 else 0, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def worked(study: Study) -> float:
    """Seconds during which a worker was busy with the study's finished trials.

    What several workers do at the same time counts once; what a killed process had begun does not count.
    """
    busy = sorted(
        (trial.datetime_complete.timestamp() - trial.user_attrs[SECONDS], trial.datetime_complete.timestamp())
        for trial in study.get_trials(deepcopy=False, states=_TOLD)
        if trial.datetime_complete is not None and SECONDS in trial.user_attrs
    )
    total, until = 0.0, -math.inf
    for begin, end in busy:
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total


def reason_to_stop(study: Study, rules: Rules, known: StudyPosterior | None) -> str | None:
    """Why the search should end now, in words; None while it should go on.

    Args:
        study: as stored.
        rules: what ends it.
        known: the posterior of all the study's trials that have a score; None where patience is not asked for.
    """
    return _out_of_time(study, rules) or _out_of_patience(study, rules, known)


def _out_of_time(study: Study, rules: Rules) -> str | None:
    if rules.seconds is None:
        return None
    took = sorted(
        trial.user_attrs[SECONDS]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if SECONDS in trial.user_attrs
    )
    if not took:
        return None  # at least one merge is judged, however short the time
    usual, spent = took[len(took) // 2], worked(study)
    if spent + usual * (1 + rules.reserve) <= rules.seconds:
        return None
    rest = " and the final round needs the rest" if rules.reserve else ""
    return f"time_limit: {time_text(spent)} of {time_text(rules.seconds)} are used{rest}"


def _out_of_patience(study: Study, rules: Rules, known: StudyPosterior | None) -> str | None:
    if rules.patience is None or known is None or not known.fitted:
        return None
    finished = [t for t in study.get_trials(deepcopy=False) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    finished.sort(key=_when)
    since = int(study.user_attrs.get(PATIENT_FROM) or 0)
    if len(finished) - since < rules.patience:
        return None
    late = finished[-rules.patience :]
    if any(trial.user_attrs.get(PHASE) == "design" for trial in late):
        return None
    numbers = {trial.number for trial in late}
    before = max((one.mean for one in known.each if one.trial not in numbers), default=None)
    after = max((one.mean for one in known.each if one.trial in numbers), default=-math.inf)
    if before is None or after - before > known.noise:
        return None
    return (
        f"patience: in the last {rules.patience} trials the best posterior mean has not risen by more than the noise "
        f"({known.noise:.3f} points)"
    )


def _when(trial: FrozenTrial) -> tuple[float, int]:
    return (trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0, trial.number)
