"""The loop: ask, merge, draw, score, tell; and where a study begins and goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna

from bayes_merger.atomic import write_json
from bayes_merger.errors import BayesMergerError
from bayes_merger.run.budget import with_more_trials
from bayes_merger.run.evaluator import Evaluator
from bayes_merger.run.final import final_round_trials
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.holdout import Watch
from bayes_merger.run.predicted import last_suggestion, queue_prediction, waits
from bayes_merger.run.progress import ProgressReporter, StopSignal, TrialReport
from bayes_merger.run.rating.desk import Desk
from bayes_merger.run.record import posterior_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.standards import fix_standards, seen_standardised
from bayes_merger.run.standing import scores_are_final
from bayes_merger.run.trial import TrialRun
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.study import study as studies
from bayes_merger.search.study.proposer import TAKEOVER
from bayes_merger.search.study.queue import LastSuggestion
from bayes_merger.search.study.stopping import STOPPED, Rules, read_time, reason_to_stop
from bayes_merger.search.study.workers import Worker
from bayes_merger.timing import Stopwatch, timed

log = logging.getLogger("bayes_merger")

FAILURES_IN_A_ROW = 5  # a run whose every trial fails is broken, not unlucky
SHORTEST, LONGEST = 0.1, 2.0  # seconds between two looks at the queue, when there is nothing to take
TRIALS_PER_WORKER = 20  # so that suggestions made without the scores of what others draw cost little


def open_study(
    setup: RunSetup,
    folder: RunFolder,
    fingerprint: Mapping[str, Any],
    stored: Mapping[str, Any],
    design: Sequence[Mapping[str, float]] | None = None,
    taken: Sequence[optuna.trial.FrozenTrial] = (),
    waiting: Callable[[str], None] | None = None,
) -> optuna.study.Study:
    """The study of a run: made with its start design queued, or found with what was interrupted queued again.

    Args:
        setup: the run.
        folder: where it lies.
        fingerprint: what must be the same for scores to compare.
        stored: what a resume needs; kept in a new study. Empty for a study that exists.
        design: the rows that a new study begins with; ``None``: those of a run without anchors of the person's own.
        taken: finished trials of another study; a new one begins with them.
        waiting: told when another program holds the database, or it cannot be reached.

    Raises:
        ConfigError: what is given now would make scores incomparable with the study's.
    """
    study = studies.open_study(
        studies.open_storage(folder.where, create=bool(stored), waiting=waiting),
        folder.called,
        make_sampler(setup.sampler, setup.space.distributions(), setup.config.seed),
        space=setup.space,
        fingerprint=fingerprint,
        design=studies.design(setup.space, setup.config.init_points, setup.config.seed) if design is None else design,
        attributes=stored,
        objectives=max(len(setup.config.objectives), 1),
        taken=taken,
        alone=not folder.address,
        shown=folder.name,
    )
    seen_standardised(study)
    return study


def join_study(
    setup: RunSetup,
    folder: RunFolder,
    fingerprint: Mapping[str, Any],
    waiting: Callable[[str], None] | None = None,
) -> optuna.study.Study:
    """The study of a run that others work on; nothing in it is changed.

    Raises:
        ConfigError: it does not exist, or this worker's scores would not compare with the study's.
    """
    sampler = make_sampler(setup.sampler, setup.space.distributions(), setup.config.seed)
    study = studies.load_study(
        studies.open_storage(folder.where, create=False, waiting=waiting),
        folder.called,
        sampler,
        alone=not folder.address,
        shown=folder.name,
        whole=False,
    )
    studies.check_fingerprint(study, fingerprint)
    seen_standardised(study)
    return study


def search(
    setup: RunSetup,
    study: optuna.study.Study,
    evaluator: Evaluator,
    folder: RunFolder,
    progress: ProgressReporter,
    stop: StopSignal,
    *,
    name: str = "",
    taking: bool = False,
) -> None:
    """Run trials until the budget is used up or a stopping rule says so, as one of any number of workers.

    Args:
        setup: the run.
        study: shared with the other workers.
        evaluator: draws and judges.
        folder: where the pictures go.
        progress: shows what goes on.
        stop: how the person ends it.
        name: of this worker, where there are several.
        taking: others make the suggestions and look whether the search should end, so this one need not know all
            trials; it does so itself only while nobody else does.

    Raises:
        Interrupted: somebody asked to stop.
        Paused: the person who scores went away.
        BayesMergerError: trials fail one after the other.
    """
    desk = Desk(setup, study, folder, progress, stop) if setup.rater else None
    last, patience = last_of(setup, study, progress), TAKEOVER if taking else 0.0
    ahead = desk.ahead if desk else None
    with Worker(study, setup.space, name=name, last=last, patience=patience, ahead=ahead) as worker:
        progress.budget(worker.finished(), setup.trials)
        _Search(setup, study, evaluator, folder, progress, stop, worker, desk, taking).run()


class _Search:
    """What :func:`search` does, from one trial to the next; it has the same parameters."""

    def __init__(
        self,
        setup: RunSetup,
        study: optuna.study.Study,
        evaluator: Evaluator,
        folder: RunFolder,
        progress: ProgressReporter,
        stop: StopSignal,
        worker: Worker,
        desk: Desk | None,
        taking: bool,
    ) -> None:
        self.setup = setup
        self.study = study
        self.evaluator = evaluator
        self.folder = folder
        self.progress = progress
        self.stop = stop
        self.worker = worker
        self.desk = desk
        self.taking = taking
        self.watch = Watch(progress.note)
        self.pause = SHORTEST
        self.failed = 0

    def run(self) -> None:
        """Trial after trial, until the search is over."""
        total = self.setup.trials
        while self.worker.done < total:
            # Once for all: a server is asked as little as can be.
            known = self.worker.with_retries(lambda: self.study.user_attrs)
            self.stop.look(known)
            self.stop.check()
            self.folder.check()
            self.setup = with_more_trials(self.setup, known).with_standards(known)
            total = self.setup.trials
            if self.desk:
                self.desk.report(total, self.watch)
            over = ended(self.setup, self.study, self.progress, known, watching=self._sees_all())
            if over and not (total := self._left_over()):
                return
            if report := self._trial(total):
                self._reported(report)
        if self.desk:
            self.desk.report(total, self.watch)

    def _sees_all(self) -> bool:
        """Whether this worker reads all trials, as nobody else looks after the search."""
        return not self.taking or self.worker.has_proposed

    def _trial(self, total: int) -> TrialReport | None:
        """Draw the next merge; None if there is none now, or it has no outcome yet."""
        started = time.monotonic()
        self.progress.step("choosing the next merge")
        with Stopwatch().running():
            with timed("choose"):
                trial = self.worker.claim(total)
            if trial is None:
                self._wait()
                return None
            self.pause = SHORTEST
            whole = self._sees_all() or not scores_are_final(self.setup)
            run = TrialRun(
                self.setup, self.study, self.worker, self.evaluator, self.folder, self.progress, trial, self.desk,
                whole, started,
            )  # fmt: skip
            return run.report(total)

    def _reported(self, report: TrialReport) -> None:
        self.progress.trial(report)
        if self.setup.config.scoring.standardise:
            fix_standards(self.study, self.progress.note)
        if self._sees_all():
            self.watch.look(self.study, report.done)
        self.failed = _failures(self.failed, report)

    def _left_over(self) -> int:
        """How many trials still wait of a search that is over; the predicted merge is made one of them."""
        if self.setup.config.final.predicted:
            self.worker.with_retries(partial(queue_prediction, self.study, self.progress.note))
        return waits(self.study) or (self.desk.outstanding() if self.desk else 0)

    def _wait(self) -> None:
        """Wait while there is nothing to draw, or ask the person."""
        if self.desk and self.desk.asks():
            self.pause = SHORTEST
            return
        self.progress.step("waiting for the other workers")
        time.sleep(self.pause)
        self.pause = min(2 * self.pause, LONGEST)


def _failures(before: int, report: TrialReport) -> int:
    """How many trials have failed one after the other.

    Raises:
        BayesMergerError: too many.
    """
    if not report.reason or report.pruned:
        return 0
    if before + 1 >= FAILURES_IN_A_ROW:
        raise BayesMergerError(f"{before + 1} trials failed in a row, the last one because: {report.reason}")
    return before + 1


def last_of(setup: RunSetup, study: optuna.study.Study, progress: ProgressReporter) -> LastSuggestion:
    """What makes the last suggestion of a run: the prediction, or the optimiser as always."""
    return last_suggestion(study, progress.note) if setup.config.final.predicted else lambda total: None


def crowded(workers: int, total: int) -> str | None:
    """A warning where more workers draw at the same time than the search can learn from; None where it can."""
    sensible = max(1, total // TRIALS_PER_WORKER)
    if workers <= sensible:
        return None
    return (
        f"{workers} workers for {total} trials: most suggestions are made before the others' scores are known; "
        f"up to {sensible} learn about as much as one would, and more pictures per trial use the others better"
    )


def ended(
    setup: RunSetup,
    study: optuna.study.Study,
    progress: ProgressReporter,
    known: Mapping[str, Any],
    *,
    watching: bool = True,
) -> bool:
    """Whether a stopping rule has ended the search; the first one watching to see it writes down why, for all.

    Args:
        setup: the run.
        study: its study.
        progress: told why it ends.
        known: the study's attributes.
        watching: look whether a rule ends it now.
    """
    if known.get(STOPPED):
        return True
    if not watching:
        return False
    config = setup.config
    rules = Rules(read_time(config.time_limit), final_round_trials(setup), config.patience)
    if rules.seconds is None and rules.patience is None:
        return False
    reason = reason_to_stop(study, rules, posterior_of(study) if rules.patience is not None else None)
    if reason:
        study.set_user_attr(STOPPED, reason)
        progress.note(f"the search ends early; {reason}")
    return bool(reason)


def write_settings(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """A copy of the run's settings for the eye; the study has its own."""
    write_json(folder.settings, config)
