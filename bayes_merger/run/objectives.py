"""Several objectives: scorers that are looked at apart, and the Pareto front instead of one best merge.

The weighted sum of all scorers is still computed: it is what single numbers (the progress line, the closing table, the
merge that is saved) go by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.scoring.scorer import Scale, Score, Scorer, combine


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
        raise ConfigError(f"objectives: {names[0]} alone is one; give several, or none and scorers=[{names[0]}]")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"objectives: {doubled[0]} is there twice; name each scorer once")
    if config.patience is not None:
        raise ConfigError("patience: looks at one number, and there are several objectives; leave it out")


def objective_values(
    scores: Sequence[Score],
    payload_importance: Mapping[str, float],
    scales: Mapping[str, Scale],
    objectives: Sequence[str],
) -> tuple[float, ...]:
    """The points of each objective, its pictures weighted by the payloads' importance.

    Args:
        scores: raw scores of all scorers.
        payload_importance: as for ``combine``.
        scales: scorer -> the raw values of 0 and 10 points.
        objectives: names of scorers.

    Raises:
        TrialFailed: as ``combine``.
    """
    return tuple(
        combine([score for score in scores if score.scorer == name], payload_importance, {name: (1.0, scales[name])})
        for name in objectives
    )
