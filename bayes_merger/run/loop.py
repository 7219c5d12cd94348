"""The loop: ask, merge, draw, score, tell; and where a study begins and goes on."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna

from bayes_merger.atomic import write_json
from bayes_merger.errors import BayesMergerError, Superseded, TrialFailed, one_line
from bayes_merger.run.attributes import IMAGES, POINTS, SCORES, TIMES, WEIGHTS
from bayes_merger.run.budget import with_more_trials
from bayes_merger.run.control import PAUSE
from bayes_merger.run.evaluator import Evaluation, Evaluator, Pruned, Unrated, evaluate
from bayes_merger.run.final import final_round_trials
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.holdout import Watch
from bayes_merger.run.outlook import seconds_left
from bayes_merger.run.pictures import describe, forget, write_grid
from bayes_merger.run.predicted import last_suggestion, queue_prediction, waits
from bayes_merger.run.progress import ProgressReporter, StopSignal, TrialReport
from bayes_merger.run.pruning import incumbent_for
from bayes_merger.run.rating.desk import Desk
from bayes_merger.run.record import mean_scores, posterior_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.standards import fix_standards, seen_standardised
from bayes_merger.run.standing import best_so_far, standing
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.study import study as studies
from bayes_merger.search.study.history import ESTIMATE
from bayes_merger.search.study.proposer import TAKEOVER
from bayes_merger.search.study.queue import LastSuggestion
from bayes_merger.search.study.stopping import SECONDS, STOPPED, Rules, read_time, reason_to_stop
from bayes_merger.search.study.workers import Worker
from bayes_merger.timing import Stopwatch, seconds_so_far, timed

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
        parts: the run.
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
        parts: the run.
        study: shared with the other workers.
        bench: draws and judges.
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
    total = setup.config.init_points + setup.config.n_iters
    failed, pause, watch = 0, SHORTEST, Watch(progress.note)
    desk = Desk(setup, study, folder, progress, stop) if setup.rater else None
    last, ahead = last_of(setup, study, progress), desk.ahead if desk else None
    patience = TAKEOVER if taking else 0.0
    with Worker(study, setup.space, name=name, last=last, patience=patience, ahead=ahead) as worker:
        progress.budget(worker.finished(), total)
        while worker.done < total:
            stop.check()
            folder.check()
            setup = with_more_trials(setup, study)
            total = setup.config.init_points + setup.config.n_iters
            if desk:
                desk.report(total, watch)
            over = ended(setup, study, progress, watching=not taking or worker.has_proposed)
            started = time.monotonic()
            progress.step("choosing the next merge")
            if over:
                if setup.config.final.predicted:
                    worker.with_retries(partial(queue_prediction, study, progress.note))
                if not (total := waits(study) or (desk.outstanding() if desk else 0)):
                    return
            with Stopwatch().running():
                with timed("choose"):
                    trial = worker.claim(total)
                if trial is None:
                    pause = _waited(desk, progress, pause)
                    continue
                pause = SHORTEST
                whole = not taking or worker.has_proposed
                setup = setup.with_standards(study.user_attrs)
                try:
                    report = run_trial(
                        setup, study, worker, trial, evaluator, folder, total, started, desk, whole=whole
                    )
                except Superseded as late:
                    progress.note(str(late))
                    continue
            if report is None:
                continue
            progress.trial(report)
            fix_standards(study, progress.note)
            if whole:
                watch.look(study, report.done)
            failed = failed + 1 if report.reason and not report.pruned else 0
            if failed >= FAILURES_IN_A_ROW:
                raise BayesMergerError(f"{failed} trials failed in a row, the last one because: {report.reason}")
        if desk:
            desk.report(total, watch)


def _waited(desk: Desk | None, progress: ProgressReporter, pause: float) -> float:
    """Wait while there is nothing to draw, or ask the person; returns how long to wait the next time."""
    if desk and desk.asks():
        return SHORTEST
    progress.step("waiting for the other workers")
    time.sleep(pause)
    return min(2 * pause, LONGEST)


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


def ended(setup: RunSetup, study: optuna.study.Study, progress: ProgressReporter, *, watching: bool = True) -> bool:
    """Whether a stopping rule has ended the search; the first one watching to see it writes down why, for all."""
    if study.user_attrs.get(STOPPED):
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


def run_trial(
    setup: RunSetup,
    study: optuna.study.Study,
    worker: Worker,
    trial: optuna.trial.FrozenTrial,
    evaluator: Evaluator,
    folder: RunFolder,
    total: int,
    started: float,
    desk: Desk | None = None,
    *,
    whole: bool = True,
) -> TrialReport | None:
    """Judge one candidate and tell the study; None if it waits for a person's ratings now.

    Raises:
        Superseded: the trial was given up, and another worker was faster.
        Paused: the person who scores went away.
    """
    before = best_so_far(study, whole=whole)
    found: Evaluation | Pruned | Unrated | None = None
    reason: str | None = None
    attributes: dict[str, Any] = {}
    try:
        found, attributes = draw_trial(setup, study, trial, evaluator, folder, before)
        if isinstance(found, Unrated):
            assert desk is not None
            worker.set_aside(trial, _took(started) | attributes | desk.questions(trial, found))
            return None
        before = worker.with_retries(lambda: best_so_far(study, whole=whole))  # others have not been idle
        attributes |= _took(started)
        if isinstance(found, Pruned):
            reason, attributes[ESTIMATE] = found.reason, found.estimate
            outcome = worker.prune(trial, reason, attributes)
        else:
            outcome = worker.tell(trial, found.values or found.value, attributes)
    except TrialFailed as error:
        reason = one_line(error, longest=400)
        log_cause(folder, trial.number, error)
        outcome = worker.fail(trial, reason)
    except Superseded:
        forget(folder.path / name for name in attributes.get(IMAGES, ()))
        raise
    evaluation = found if isinstance(found, Evaluation) and not reason else None
    known = standing(study, whole=whole)
    return TrialReport(
        number=outcome.number,
        done=outcome.done,
        total=total,
        value=evaluation.value if evaluation else None,
        best=known.best,
        improved=evaluation is not None and (before is None or evaluation.value > before),
        scores=mean_scores([vars(score) for score in evaluation.scores]) if evaluation else {},
        reason=reason,
        seconds=_took(started)[SECONDS],
        worker=worker.name,
        pruned=isinstance(found, Pruned),
        mean=known.mean,
        front=known.front,
        pictures=len(found.paths) if found else 0,
        left=seconds_left(setup, study, outcome.done) if whole else None,
    )


def _took(started: float) -> dict[str, Any]:
    """What is remembered of a trial's time; the run's pauses are none of it."""
    times = seconds_so_far()
    paused = times.pop(PAUSE, 0.0)
    return {SECONDS: round(time.monotonic() - started - paused, 3), TIMES: times}


def log_cause(folder: RunFolder, trial: int, error: BaseException) -> None:
    """The traceback of what a scorer of one's own raised: for the log, and for the screen with ``--debug``."""
    if error.__cause__ is not None:
        folder.note(f"trial {trial} failed:\n" + "".join(traceback.format_exception(error.__cause__)))
        log.debug("trial %s failed", trial, exc_info=error.__cause__)


def draw_trial(
    setup: RunSetup,
    study: optuna.study.Study,
    trial: optuna.trial.FrozenTrial,
    evaluator: Evaluator,
    folder: RunFolder,
    best: float | None,
) -> tuple[Evaluation | Pruned | Unrated, dict[str, Any]]:
    """Merge, draw and score one candidate.

    Returns:
        What it got, and what is to be remembered of it with its score.

    Raises:
        TrialFailed: it could not be scored.
        Paused: the person who scores went away.
    """
    weights = trial.user_attrs[WEIGHTS]
    with timed("merge"):
        evaluator.load_weights(weights)
    incumbent = incumbent_for(trial, study, setup.config.pruning)
    found = evaluate(setup, evaluator, weights, folder.images(trial.number), incumbent)
    attributes: dict[str, Any] = {SCORES: [vars(score) for score in found.scores]}
    if isinstance(found, Evaluation) and found.values:
        attributes[POINTS] = found.value
    if setup.config.preview and not isinstance(found, Pruned):
        write_grid(folder.preview, found.images)
    value = found.value if isinstance(found, Evaluation) else -math.inf
    # A member of the front need not have the best sum.
    worse = best is not None and value <= best and not setup.config.objectives and not isinstance(found, Unrated)
    if setup.config.images == "best" and worse:
        forget(found.paths)
    else:
        with timed("save"):
            points = found.value if isinstance(found, Evaluation) else None
            describe(found.paths, trial.number, setup.recipe(weights), points)
        attributes[IMAGES] = [path.relative_to(folder.path).as_posix() for path in found.paths]
    return found, attributes


def write_settings(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """A copy of the run's settings for the eye; the study has its own."""
    write_json(folder.path / "config.json", config)
