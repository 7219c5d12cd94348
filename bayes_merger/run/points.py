"""How the scores of a run become points: its settings, its scorers and its payloads as one combination."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import optuna

from bayes_merger.config import ScoringConfig
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.run.attributes import CONFIG, PAYLOADS, SCORERS, STANDARDS
from bayes_merger.scoring.combination import Combination, Judge
from bayes_merger.scoring.scorer import Scale, check_importance
from bayes_merger.search.study.checked import answered_once

FEWEST = 3
"""Trials of a start design that can fix scales: a standard deviation of fewer is none."""

Scorers = Mapping[str, tuple[float, Scale]]
"""Importance and scale of each scorer."""


def combination(scoring: ScoringConfig, scorers: Scorers, payloads: Mapping[str, float]) -> Combination:
    """What the settings say.

    Args:
        scoring: the settings.
        scorers: those of the run, by name.
        payloads: payload -> its importance.

    Raises:
        ConfigError: a share or a penalty is no number, or is about a scorer or payload that is not there.
    """
    for setting, given in (("payloads", scoring.payloads), ("penalties", scoring.penalties)):
        for name in given:
            if name not in scorers:
                raise ConfigError(f"scoring.{setting}.{name}: no such scorer is chosen; {nearest(name, scorers)}")
    judges = {
        name: Judge(
            importance,
            scale,
            _shares(name, scoring.payloads[name], payloads) if name in scoring.payloads else None,
            check_importance(f"scoring.penalties.{name}", scoring.penalties.get(name, 0.0)),
        )
        for name, (importance, scale) in scorers.items()
    }
    return Combination(payloads, judges, scoring.mean)


def _shares(name: str, given: Any, payloads: Collection[str]) -> dict[str, float]:
    """The share of a scorer in each payload that it judges."""
    setting = f"scoring.payloads.{name}"
    if isinstance(given, list):
        given = dict.fromkeys(map(str, given), 1.0)
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{setting}: give payloads, like [portrait,street] or {{portrait:2,street:1}}, not {given!r}")
    for payload in given:
        if payload not in payloads:
            raise ConfigError(f"{setting}: no payload '{payload}' is drawn; {nearest(str(payload), payloads)}")
    return {payload: check_importance(f"{setting}.{payload}", share) for payload, share in given.items()}


@answered_once
def combination_of(study: optuna.study.Study) -> Combination:
    """What a study's own attributes say, its standards included; of a study that no run made, a judge of nothing.

    Raises:
        ConfigError: they are not what a run writes.
    """
    stored = study.user_attrs
    scorers = {
        name: (float(i), (float(low), float(high))) for name, (i, (low, high)) in (stored.get(SCORERS) or {}).items()
    }
    payloads = {payload["name"]: payload["importance"] for payload in stored.get(PAYLOADS) or ()}
    known = combination(scoring_of(stored.get(CONFIG) or {}), scorers, payloads)
    return standardised(known, stored.get(STANDARDS))


def scoring_of(settings: Mapping[str, Any]) -> ScoringConfig:
    """The settings of how scores are combined, from all of a run's; an older study has none."""
    given = settings.get("scoring") or {}
    fields = ScoringConfig.__dataclass_fields__
    return ScoringConfig(**{key: value for key, value in given.items() if key in fields})


def standardised(known: Combination, standards: Mapping[str, Scale] | None) -> Combination:
    """A combination with the scales that the start design has fixed, as far as it has."""
    if not standards:
        return known
    judges = {
        name: Judge(judge.importance, (standards[name][0], standards[name][1]), judge.payloads, judge.penalty)
        if name in standards
        else judge
        for name, judge in known.judges.items()
    }
    return Combination(known.payloads, judges, known.mean)


def comparable(scoring: ScoringConfig) -> dict[str, Any]:
    """What of these settings must be the same for values to compare; empty where all are the defaults."""
    usual = ScoringConfig()
    return {
        name: value
        for name in ("mean", "standardise", "payloads", "penalties", "assist")
        if (value := getattr(scoring, name)) != getattr(usual, name)
    }
