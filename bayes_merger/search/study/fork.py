"""Forking a study: the finished trials of one study, added to a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import AWAITING, FORKED_FROM, ORIGIN, PHASE, RETRY_OF, ROW, WEIGHTS, WORKER
from bayes_merger.search.study.stopping import SECONDS

OWN = (AWAITING, ORIGIN, PHASE, RETRY_OF, ROW, WORKER, SECONDS)
"""Attributes of a trial that belong to its study and not to its merge, such as the time it took."""


@dataclass(frozen=True)
class Inheritance:
    """What a fork takes over.

    Attributes:
        trials: to be added to the new study, in the order of the old one; they count as its start design.
        left_out: number of each other finished trial, and why it does not fit.
    """

    trials: tuple[FrozenTrial, ...]
    left_out: dict[int, str]


def inheritance(old: Study, space: SearchSpace) -> Inheritance:
    """The finished trials of a study whose merges are also in another space.

    A trial fits if some values of the new space give exactly its weights: a range may be narrower, a weight frozen at
    the value that it had, a group made of weights that were equal.

    Args:
        old: the study; its scores must compare with the new one's.
        space: of the new study.
    """
    distributions = space.distributions()
    taken, left_out = [], {}
    for trial in old.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        try:
            values = space.values_of(trial.user_attrs[WEIGHTS])
        except ConfigError as error:
            left_out[trial.number] = str(error)
            continue
        kept = {key: value for key, value in trial.user_attrs.items() if key not in OWN}
        taken.append(
            optuna.create_trial(
                state=TrialState.COMPLETE,
                values=trial.values,
                params=values,
                distributions=dict(distributions),
                user_attrs=kept | {PHASE: "design", FORKED_FROM: {"study": old.study_name, "trial": trial.number}},
                intermediate_values=trial.intermediate_values,
            )
        )
    return Inheritance(tuple(taken), left_out)


def rows_still_needed(
    rows: Sequence[dict[str, float]], trials: Sequence[FrozenTrial], wanted: int
) -> list[dict[str, float]]:
    """The rows of a start design that inherited trials leave to be drawn.

    Args:
        rows: of the whole design, most important first.
        trials: inherited.
        wanted: how many the design should have in all.
    """
    there = [trial.params for trial in trials]
    return [row for row in rows if row not in there][: max(0, wanted - len(there))]
