"""The loop: ask, merge, draw, score, tell; and where a study begins and goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from bayes_merger.atomic import write_json
from bayes_merger.errors import BayesMergerError, TrialFailed
from bayes_merger.run.bench import Bench, Evaluation
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.parts import Parts
from bayes_merger.run.record import best_value, mean_scores
from bayes_merger.run.watcher import Stop, TrialReport, Watcher
from bayes_merger.search import study as studies

FAILURES_IN_A_ROW = 5  # a run whose every trial fails is broken, not unlucky


def open_study(
    parts: Parts, folder: RunFolder, fingerprint: Mapping[str, Any], stored: Mapping[str, Any]
) -> optuna.study.Study:
    """The study of a run: made with its start design queued, or found with what was interrupted queued again.

    Args:
        parts: the run.
        folder: where it lies.
        fingerprint: what must be the same for scores to compare.
        stored: what a resume needs; kept in a new study.

    Raises:
        ConfigError: what is given now would make scores incomparable with the study's.
    """
    return studies.open_study(
        studies.open_storage(folder.database),
        folder.name,
        parts.sampler(parts.space.distributions(), parts.config.seed),
        space=parts.space,
        fingerprint=fingerprint,
        design=studies.design(parts.space, parts.config.init_points, parts.config.seed),
        attributes=stored,
    )


def search(
    parts: Parts, study: optuna.study.Study, bench: Bench, folder: RunFolder, watcher: Watcher, stop: Stop
) -> None:
    """Run trials until the budget is used up.

    Raises:
        Interrupted: somebody asked to stop.
        Paused: the person who scores went away.
        BayesMergerError: trials fail one after the other.
    """
    total = parts.config.init_points + parts.config.n_iters
    failed = 0
    watcher.budget(studies.finished(study), total)
    while studies.finished(study) < total:
        stop.check()
        started = time.monotonic()
        watcher.step("choosing the next merge")
        before = best_value(study)
        trial = studies.ask(study, parts.space)
        reason, evaluation = None, None
        try:
            evaluation = run_trial(parts, trial, bench, folder, before)
            studies.tell(study, trial, evaluation.value)
        except TrialFailed as error:
            reason = str(error)
            studies.fail(study, trial, reason)
        watcher.trial(_report(study, trial.number, total, evaluation, before, reason, time.monotonic() - started))
        failed = failed + 1 if reason else 0
        if failed >= FAILURES_IN_A_ROW:
            raise BayesMergerError(f"{failed} trials failed in a row, the last one because: {reason}")


def run_trial(
    parts: Parts, trial: optuna.trial.Trial, bench: Bench, folder: RunFolder, best: float | None
) -> Evaluation:
    """Merge, draw and score one candidate; everything learned is on the trial before it is told.

    Raises:
        TrialFailed: it could not be judged.
        Paused: the person who scores went away.
    """
    weights = parts.space.assemble(trial.params)
    trial.set_user_attr("weights", weights)
    bench.put(weights)
    images = bench.draw(parts.payloads)
    paths = bench.save(folder.images(trial.number), images, parts.payloads)
    evaluation = bench.judge(weights, parts.payloads, images, paths)
    trial.set_user_attr("scores", [vars(score) for score in evaluation.scores])
    if parts.config.images == "best" and best is not None and evaluation.value <= best:
        _forget(paths)
        return evaluation
    trial.set_user_attr("images", [path.relative_to(folder.path).as_posix() for path in paths])
    return evaluation


def _forget(paths: tuple[Path, ...]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if paths and not any(paths[0].parent.iterdir()):
        paths[0].parent.rmdir()


def _report(
    study: optuna.study.Study,
    number: int,
    total: int,
    evaluation: Evaluation | None,
    before: float | None,
    reason: str | None,
    seconds: float,
) -> TrialReport:
    return TrialReport(
        number=number,
        done=studies.finished(study),
        total=total,
        value=evaluation.value if evaluation else None,
        best=best_value(study),
        improved=evaluation is not None and (before is None or evaluation.value > before),
        scores=mean_scores([vars(score) for score in evaluation.scores]) if evaluation else {},
        reason=reason,
        seconds=seconds,
    )


def write_settings(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """A copy of the run's settings for the eye; the study has its own."""
    write_json(folder.path / "config.json", config)
