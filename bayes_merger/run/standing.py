"""How a search stands, for whoever looks after every trial: from all trials, or without reading them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna

from bayes_merger.run.attributes import BELIEVED, CONFIG
from bayes_merger.run.beliefs import running_posterior
from bayes_merger.run.points import scoring_of
from bayes_merger.run.record import best_value, front_of
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


def best_so_far(study: optuna.study.Study, *, whole: bool) -> float | None:
    """The greatest score, None before the first; see :func:`standing`."""
    return best_value(study) if whole or not _as_told(study) else greatest_score(study)


def _as_told(study: optuna.study.Study) -> bool:
    """Whether the greatest score that was told is the best."""
    return len(study.directions) == 1 and not scoring_of(study.user_attrs.get(CONFIG) or {}).standardise


def standing(study: optuna.study.Study, *, whole: bool) -> Standing:
    """How the search stands.

    Args:
        study: shared with others.
        whole: read all trials; otherwise the posterior mean is what another process has stored. Several objectives and
            standardised scores are always read whole.
    """
    if whole or not _as_told(study):
        known = running_posterior(study)
        mean = known.best.mean if known.best and known.fitted else None
        return Standing(best_value(study), mean, len(front_of(study)) if len(study.directions) > 1 else 0)
    believed: Any = study.user_attrs.get(BELIEVED)
    fitted = is_table(believed, mean=(int, float), fitted=bool) and believed["fitted"]
    return Standing(greatest_score(study), believed["mean"] if fitted else None, 0)
