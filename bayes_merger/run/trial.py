"""One trial: a merge is drawn and judged, and the study is told."""

from __future__ import annotations

import logging
import math
import time
import traceback
from dataclasses import dataclass
from typing import Any

import optuna

from bayes_merger.errors import Superseded, TrialFailed, one_line
from bayes_merger.run.attributes import IMAGES, POINTS, SCORES, TIMES, WEIGHTS
from bayes_merger.run.control import PAUSE
from bayes_merger.run.evaluator import Evaluation, Evaluator, Pruned, Unrated, evaluate
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import anchor_of
from bayes_merger.run.outlook import seconds_left
from bayes_merger.run.pictures import describe, forget, write_grid
from bayes_merger.run.progress import ProgressReporter, TrialReport
from bayes_merger.run.pruning import incumbent_for
from bayes_merger.run.rating.desk import Desk
from bayes_merger.run.record import mean_scores
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.standing import best_so_far, standing
from bayes_merger.search.study.history import ESTIMATE, PHASE, PREDICTED
from bayes_merger.search.study.stopping import SECONDS
from bayes_merger.search.study.workers import Outcome, Worker
from bayes_merger.timing import seconds_so_far, timed

log = logging.getLogger("bayes_merger")

Found = Evaluation | Pruned | Unrated


@dataclass(frozen=True)
class TrialRun:
    """One trial in the hands of one worker.

    Attributes:
        setup: the run.
        study: shared with the other workers.
        worker: whose trial it is.
        evaluator: draws and judges.
        folder: where the pictures go.
        progress: told if somebody else was faster.
        trial: as claimed.
        desk: where it is left for a person to rate; None where no person rates.
        whole: whether this process knows all trials.
        started: when it began, by the clock that only goes forward.
    """

    setup: RunSetup
    study: optuna.study.Study
    worker: Worker
    evaluator: Evaluator
    folder: RunFolder
    progress: ProgressReporter
    trial: optuna.trial.FrozenTrial
    desk: Desk | None
    whole: bool
    started: float

    def report(self, total: int) -> TrialReport | None:
        """Judge the candidate, tell the study, and say how it went.

        Returns:
            None if it waits for a person's ratings now, or was given up and another worker was faster.

        Args:
            total: how many trials there are to be.

        Raises:
            Paused: the person who scores went away.
        """
        before = self.worker.with_retries(self._best)
        found: Found | None = None
        reason: str | None = None
        attributes: dict[str, Any] = {}
        try:
            found, attributes = self._drawn(before)
            if isinstance(found, Unrated):
                self._set_aside(found, attributes)
                return None
            before = self.worker.with_retries(self._best)  # others are not idle
            outcome = self._told(found, attributes)
            reason = found.reason if isinstance(found, Pruned) else None
        except TrialFailed as error:
            reason = one_line(error, longest=400)
            log_cause(self.folder, self.trial.number, error)
            outcome = self.worker.fail(self.trial, reason)
        except Superseded as late:
            forget(self.folder.path / name for name in attributes.get(IMAGES, ()))
            self.progress.note(str(late))
            return None
        return self._reported(outcome, total, found, reason, before)

    def _best(self) -> float | None:
        return best_so_far(self.study, whole=self.whole)

    def _set_aside(self, found: Unrated, attributes: dict[str, Any]) -> None:
        assert self.desk is not None
        self.worker.set_aside(self.trial, self._took() | attributes | self.desk.questions(self.trial, found))

    def _told(self, found: Evaluation | Pruned, attributes: dict[str, Any]) -> Outcome:
        """Tell the study what the candidate got, or why it was cut short."""
        stored = attributes | self._took()
        if isinstance(found, Pruned):
            return self.worker.prune(self.trial, found.reason, stored | {ESTIMATE: found.estimate})
        return self.worker.tell(self.trial, found.values or found.value, stored)

    def _reported(
        self, outcome: Outcome, total: int, found: Found | None, reason: str | None, before: float | None
    ) -> TrialReport:
        evaluation = found if isinstance(found, Evaluation) and not reason else None
        known = standing(self.study, whole=self.whole)
        return TrialReport(
            number=outcome.number,
            done=outcome.done,
            total=total,
            value=evaluation.value if evaluation else None,
            best=known.best,
            improved=evaluation is not None and (before is None or evaluation.value > before),
            scores=mean_scores([vars(score) for score in evaluation.scores]) if evaluation else {},
            reason=reason,
            seconds=self._took()[SECONDS],
            worker=self.worker.name,
            pruned=isinstance(found, Pruned),
            mean=known.mean,
            front=known.front,
            pictures=len(found.paths) if found else 0,
            left=seconds_left(self.setup, self.study, outcome.done) if self.whole else None,
            merge=self._called(),
        )

    def _called(self) -> str:
        """What the merge is, where that has a name."""
        if self.trial.user_attrs.get(PHASE) == PREDICTED:
            return "the predicted best"
        if self.setup.steps is not None:
            return ""
        return anchor_of(self.setup.config.method, self.trial.user_attrs[WEIGHTS], self.setup.space.idle)

    def _took(self) -> dict[str, Any]:
        """What is remembered of the trial's time; the run's pauses are none of it."""
        times = seconds_so_far()
        paused = times.pop(PAUSE, 0.0)
        return {SECONDS: round(time.monotonic() - self.started - paused, 3), TIMES: times}

    def _drawn(self, best: float | None) -> tuple[Found, dict[str, Any]]:
        """Merge, draw and score the candidate.

        Returns:
            What it got, and what is to be remembered of it with its score.

        Raises:
            TrialFailed: it could not be scored.
            Paused: the person who scores went away.
        """
        weights = self.trial.user_attrs[WEIGHTS]
        with timed("merge"):
            self.evaluator.load_weights(weights)
        incumbent = incumbent_for(self.trial, self.study, self.setup.config.pruning)
        found = evaluate(self.setup, self.evaluator, weights, self.folder.images(self.trial.number), incumbent)
        attributes: dict[str, Any] = {SCORES: [vars(score) for score in found.scores]}
        if isinstance(found, Evaluation) and found.values:
            attributes[POINTS] = found.value
        if self.setup.config.preview and not isinstance(found, Pruned):
            write_grid(self.folder.preview, found.images)
        if self._is_kept(found, best):
            with timed("save"):
                points = found.value if isinstance(found, Evaluation) else None
                describe(found.paths, self.folder.name, self.trial.number, self.setup.recipe(weights), points)
            attributes[IMAGES] = [path.relative_to(self.folder.path).as_posix() for path in found.paths]
        else:
            forget(found.paths)
        return found, attributes

    def _is_kept(self, found: Found, best: float | None) -> bool:
        """Whether the pictures are; a member of the front need not have the best sum."""
        if self.setup.config.images != "best" or self.setup.config.objectives or isinstance(found, Unrated):
            return True
        value = found.value if isinstance(found, Evaluation) else -math.inf
        return best is None or value > best


def log_cause(folder: RunFolder, trial: int, error: BaseException) -> None:
    """The traceback of what a scorer of one's own raised: for the log, and for the screen with ``--debug``."""
    if error.__cause__ is not None:
        folder.note(f"trial {trial} failed:\n" + "".join(traceback.format_exception(error.__cause__)))
        log.debug("trial %s failed", trial, exc_info=error.__cause__)
