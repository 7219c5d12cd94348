"""Several objectives: scorers that are looked at apart, and the Pareto front instead of one best merge.

The weighted sum of all scorers is still computed: it is what single numbers (the progress line, the closing table, the
merge that is saved) go by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.scoring.combination import Combination
from bayes_merger.scoring.scorer import Score, Scorer


def check_objectives(config: RunConfig, scorers: Mapping[str, Scorer]) -> None:
    """Refuse objectives that are no scorers, or that something else cannot go with.

    Raises:
        ConfigError: naming the setting and the way out.
    """
    names = list(config.objectives)
    if not names:
        return
    for name in names:
        if name not in scorers:
            raise ConfigError(f"objectives: no scorer '{name}' is chosen; {nearest(name, scorers)}")
    if len(names) < 2:
        raise ConfigError(f"objectives: {names[0]} alone is one; give several, or none and scorers={names[0]}")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"objectives: {doubled[0]} is there twice; name each scorer once")
    if config.patience is not None:
        raise ConfigError("patience: looks at one number, and there are several objectives; leave it out")


def objective_values(scores: Sequence[Score], combination: Combination, objectives: Sequence[str]) -> tuple[float, ...]:
    """The points of each objective, its pictures weighted by the payloads' importance.

    Args:
        scores: raw scores of all scorers.
        combination: of all scorers.
        objectives: names of scorers.

    Raises:
        TrialFailed: a score is missing, or is no number.
    """
    return tuple(points_alone(scores, combination, name) for name in objectives)


def points_alone(scores: Sequence[Score], combination: Combination, name: str) -> float:
    """The points of a merge by one scorer alone, whether or not it counts."""
    alone = combination.alone(name)
    return alone.value([one for one in scores if one.scorer == name and one.payload in alone.payloads])
