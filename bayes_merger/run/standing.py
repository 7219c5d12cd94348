"""How a search stands, for whoever looks after every trial: from all trials, or without reading them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna

from bayes_merger.run.attributes import BELIEVED
from bayes_merger.run.beliefs import running_posterior
from bayes_merger.run.record import best_value, front_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.stored import is_table
from bayes_merger.search.study.tables import greatest_score


@dataclass(frozen=True)
class Standing:
    """What is known after a trial.

    Attributes:
        best: the greatest score; None before the first.
        mean: the greatest posterior mean; None where there is none.
        front: how many trials are on the Pareto front; 0 for one objective.
    """

    best: float | None
    mean: float | None
    front: int


def scores_are_final(setup: RunSetup) -> bool:
    """Whether the greatest score that was told is the best: there is one objective, and no scale is fixed later."""
    return len(setup.config.objectives) < 2 and not setup.config.scoring.standardise


def best_so_far(study: optuna.study.Study, *, whole: bool) -> float | None:
    """The greatest score, None before the first; see :func:`standing`."""
    return best_value(study) if whole else greatest_score(study)


def standing(study: optuna.study.Study, *, whole: bool) -> Standing:
    """How the search stands.

    Args:
        study: shared with others.
        whole: read all trials, as is needed unless :func:`scores_are_final`; otherwise the posterior mean is what
            another process has stored.
    """
    if whole:
        known = running_posterior(study)
        mean = known.best.mean if known.best and known.fitted else None
        return Standing(best_value(study), mean, len(front_of(study)) if len(study.directions) > 1 else 0)
    believed: Any = study.user_attrs.get(BELIEVED)
    fitted = is_table(believed, mean=(int, float), fitted=bool) and believed["fitted"]
    return Standing(greatest_score(study), believed["mean"] if fitted else None, 0)
