"""Standardised scores: every scorer on a scale that the start design fixes, once and for all.

A scorer from 1 to 10 and one from 0 to 1 can be added as they are, each on its own scale; but whichever differs more
between merges decides alone. With `scoring.standardise`, a scorer's mean over the finished trials of the start design
is 5 points and their standard deviation is one:

    points = 5 + (raw - mean) / sd,  that is the scale  [mean - 5 sd, mean + 5 sd]

The scales are a function of these trials and stored in the study, so whoever works on it has the same; they are never
fitted again. The trials of the design were told before there were any: whoever reads a study whose scales are fixed
sees every value as computed from its raw scores.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import BayesMergerError
from bayes_merger.run.attributes import CONFIG, POINTS, SCORES, STANDARDS
from bayes_merger.run.objectives import objective_values
from bayes_merger.run.points import FEWEST, combination_of, scoring_of
from bayes_merger.scoring.combination import Combination
from bayes_merger.scoring.scorer import Scale, Score
from bayes_merger.search.study.checked import CheckedStudy, Revalue
from bayes_merger.search.study.history import PHASE


def fix_standards(study: optuna.study.Study, note: Callable[[str], None]) -> None:
    """Fix the scales once the start design is over; afterwards, and without `scoring.standardise`, nothing happens.

    Args:
        study: shared with other workers, who would store the same.
        note: told what was fixed.
    """
    if not awaits_standards(study):
        return
    design = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(PHASE) == "design"]
    if not all(trial.state.is_finished() for trial in design):
        return
    found = standards(combination_of(study), [scores_of(t) for t in design if t.state == TrialState.COMPLETE])
    study.set_user_attr(STANDARDS, {name: list(scale) for name, scale in found.items()})
    note(_about(found))


def awaits_standards(study: optuna.study.Study) -> bool:
    """Whether scales are still to be fixed."""
    stored = study.user_attrs
    return scoring_of(stored.get(CONFIG) or {}).standardise and STANDARDS not in stored


def standards(known: Combination, trials: Sequence[Sequence[Score]]) -> dict[str, Scale]:
    """The scale of each scorer that counts and differs between these trials; a falling scale stays one.

    Args:
        known: says how much each picture counts.
        trials: the raw scores of the start design's trials; of fewer than `FEWEST` nothing is fixed.
    """
    found = {}
    for name in known.judges if len(trials) >= FEWEST else ():
        judge, alone = known.judges[name], known.alone(name)
        raw = replace(alone, judges={name: replace(alone.judges[name], scale=(0.0, 10.0))})
        means = [raw.value([s for s in scores if s.scorer == name and s.payload in raw.payloads]) for scores in trials]
        mean, sd = statistics.fmean(means), statistics.stdev(means)
        if judge.penalty or not sd > 1e-9 * (1.0 + abs(mean)):
            continue
        reach = math.copysign(5 * sd, judge.scale[1] - judge.scale[0])
        found[name] = (mean - reach, mean + reach)
    return found


def _about(found: Mapping[str, Scale]) -> str:
    if not found:
        return "scores are not standardised: too few trials of the start design have scores, or all have the same"
    each = ", ".join(
        f"{name} {(low + high) / 2:.4g} (sd {abs(high - low) / 10:.2g})" for name, (low, high) in found.items()
    )
    return f"scores are standardised from here on, the start design's among them; 5 points are its means: {each}"


def scores_of(trial: FrozenTrial) -> list[Score]:
    """The raw scores of a trial."""
    return [Score(**score) for score in trial.user_attrs.get(SCORES) or ()]


def revalued(study: optuna.study.Study) -> Revalue | None:
    """What gives a trial the value that its raw scores have on the scales that are fixed; None before they are."""
    stored = study.user_attrs
    if not stored.get(STANDARDS):
        return None
    known, objectives = combination_of(study), list((stored.get(CONFIG) or {}).get("objectives") or ())

    def revalue(trial: FrozenTrial) -> None:
        try:
            scores = scores_of(trial)
            value = known.value(scores)
            values = objective_values(scores, known, objectives)
        except BayesMergerError:
            return  # of other scorers or payloads than the study's: another program's
        trial.values = list(values or (value,))
        if values:
            trial.user_attrs[POINTS] = value

    return revalue


def seen_standardised(study: optuna.study.Study) -> None:
    """From now on this study shows its values on the scales that are fixed, as soon as they are."""
    if isinstance(study, CheckedStudy) and scoring_of(study.user_attrs.get(CONFIG) or {}).standardise:
        study.revalued_by(revalued)
