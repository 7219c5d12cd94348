"""How trials that a person has rated get their scores, whichever process sees to it.

What is asked is written on a trial, what is answered stands in the ledger. Any process may turn one into the other, so
a score is there whoever dies: :func:`settle` gives a trial that the ledger closes its outcome, once, in the study's
transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from bayes_merger.errors import ConfigError, TrialFailed, one_line
from bayes_merger.run.attributes import CONFIG, POINTS, SCORES
from bayes_merger.run.objectives import objective_values
from bayes_merger.run.points import combination_of, scoring_of
from bayes_merger.run.rating.awaiting import Answers, Awaiting, awaited, closing
from bayes_merger.run.rating.noise import rater_noise, score_variance
from bayes_merger.run.standards import fix_standards
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.study.history import REASON, VARIANCE
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import with_retries

log = logging.getLogger("bayes_merger")

VOID = "marked by hand as one that cannot be judged"
"""The reason of a trial that a person has called broken."""


def settle(study: optuna.study.Study, ledger: Ledger) -> list[int]:
    """Give the trials that a person has closed their outcome, unless another process did; returns their numbers."""
    waiting = awaited(study)
    if not waiting:
        return []
    ratings = ledger.ratings()
    closed, answers = closing(ratings), Answers(ratings)
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    settled = []
    for one in waiting:
        if one.number not in closed or one.number not in trials:
            continue
        if closed[one.number].kind == "void":
            state, values, about = TrialState.FAIL, None, {REASON: VOID}
        else:
            state, values, about = _outcome(study, one, trials[one.number].user_attrs.get(SCORES) or (), answers)
        if _finish(study, one, state, values, about):
            settled.append(one.number)
    fix_standards(study, log.info)
    return settled


def _finish(
    study: optuna.study.Study,
    one: Awaiting,
    state: TrialState,
    values: Sequence[float] | None,
    attributes: Mapping[str, Any],
) -> bool:
    def finish() -> bool:
        with transaction(study) as queue:
            return queue.finish(one.id, state, values, attributes) is not None

    return with_retries(study, finish)


def _outcome(
    study: optuna.study.Study, one: Awaiting, others: Iterable[Mapping[str, Any]], answers: Answers
) -> tuple[TrialState, list[float] | None, dict[str, Any]]:
    """State, values and attributes of a trial that its rater has confirmed."""
    scores = [*(Score(**score) for score in others), *_scores(one, answers)]
    known = combination_of(study)
    objectives = list(study.user_attrs.get(CONFIG, {}).get("objectives") or ())
    about: dict[str, Any] = {SCORES: [vars(score) for score in scores]}
    try:
        value = known.value(scores)
        values = objective_values(scores, known, objectives)
    except (TrialFailed, ConfigError) as error:
        return TrialState.FAIL, None, about | {REASON: one_line(error, longest=400)}
    together = scoring_of(study.user_attrs.get(CONFIG) or {}).unit == "trial"
    about[VARIANCE] = score_variance(known, scores, one.scorer, rater_noise(answers), together=together)
    return TrialState.COMPLETE, list(values) or [value], about | ({POINTS: value} if values else {})


def _scores(one: Awaiting, answers: Answers) -> Iterator[Score]:
    for question in one.pictures:
        if (score := answers.score(question)) is not None:
            yield Score(one.scorer, question.payload, question.index, question.seed, score)
