"""Where a run leaves trials for a person and finds their scores, while it goes on drawing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.run.attributes import IMAGES, SCORES, WEIGHTS
from bayes_merger.run.champion import PlayOff, play_off_of
from bayes_merger.run.fingerprint import candidate_id
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.holdout import Watch
from bayes_merger.run.pictures import add_texts, forget
from bayes_merger.run.progress import FOR_YOU, ProgressReporter, StopSignal, TrialReport
from bayes_merger.run.rating.asking import asked_about
from bayes_merger.run.rating.awaiting import Answers, Question, awaited
from bayes_merger.run.rating.noise import ENOUGH, RaterNoise, rater_noise
from bayes_merger.run.rating.playoff import begin_play_off
from bayes_merger.run.rating.settling import settle
from bayes_merger.run.rating.terminal import compare_in_terminal, rate_in_terminal
from bayes_merger.run.record import complete_trials, mean_scores, value_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.standing import standing
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.search.study.history import AWAITING, REASON
from bayes_merger.search.study.queue import queue_again
from bayes_merger.search.study.stopping import SECONDS
from bayes_merger.search.study.study import finished
from bayes_merger.search.study.transaction import transaction

if TYPE_CHECKING:
    from bayes_merger.run.evaluator import Unrated

PACE = 0.3
"""Seconds between two looks at the ledger."""

Seating = Callable[[RunFolder, ProgressReporter], AbstractContextManager[object]]
"""Opens a place where a person rates a study while it runs, such as a page."""


@contextmanager
def no_seat(folder: RunFolder, progress: ProgressReporter) -> Iterator[None]:
    """No place of the run's own: ratings come from another process."""
    progress.note(f"rate the pictures with  bayes-merger rate {folder.typed}")
    yield


class Desk:
    """Of one run.

    Args:
        setup: the run; one of its scorers is a person.
        study: which it works on.
        folder: where its pictures lie.
        progress: told what has got its score.
        stop: gives Ctrl-C its usual meaning while the terminal asks.
    """

    def __init__(
        self,
        setup: RunSetup,
        study: optuna.study.Study,
        folder: RunFolder,
        progress: ProgressReporter,
        stop: StopSignal,
    ) -> None:
        self._config = setup.config
        self._study = study
        self._folder = folder
        self._progress = progress
        self._stop = stop
        self._scorer = cast(Any, setup.scorers[setup.rater or ""])
        self._ledger: Ledger = self._scorer.ledger
        self._judges = partial(setup.judges, self._scorer.name)
        self._noise: RaterNoise | None = None
        self._redraw_lost()
        self._open = {one.number for one in awaited(study)}

    @property
    def ahead(self) -> int:
        """How many trials may wait for their scores; in the terminal each is asked about when it is drawn."""
        return self._config.scoring.ahead if self._config.scoring.page else 1

    def questions(self, trial: FrozenTrial, found: Unrated) -> dict[str, Any]:
        """What is stored on a trial that is drawn and waits for the person."""
        candidate = candidate_id(trial.user_attrs[WEIGHTS])
        known = {(score.payload, score.index) for score in found.scores if score.scorer == self._scorer.name}
        names = [path.relative_to(self._folder.path).as_posix() for path in found.paths]
        asked = [
            Question(candidate, image.payload, image.index, image.seed, name)
            for image, name in zip(found.images, names, strict=True)
            if self._judges(image.payload) and (image.payload, image.index) not in known
        ]
        every = self._config.scoring.repeats if self._config.scoring.unit == "picture" else 0
        about = asked_about(self._study, trial, self._folder, self._scorer.name, candidate, asked, every)
        self._open.add(trial.number)
        return {AWAITING: about.stored()}

    def outstanding(self) -> int:
        """How many trials there will be once those that wait for the person have their scores; 0 if none waits."""
        waiting = len(awaited(self._study))
        return finished(self._study) + waiting if waiting else 0

    def report(self, total: int, watch: Watch) -> None:
        """Tell of the trials that have got their outcome since the last look, whoever saw to it.

        Args:
            total: how many trials there will be.
            watch: looks at the hold-out scorers.
        """
        settle(self._study, self._ledger)
        closed = self._open - {one.number for one in awaited(self._study)}
        self._open -= closed
        for trial in [trial for trial in self._study.get_trials(deepcopy=False) if trial.number in closed]:
            found = self._report_of(trial, total)
            if found.value is not None:
                self._keep(trial, found)
            self._progress.trial(found)
            watch.look(self._study, found.done)
        noise = rater_noise(Answers(self._ledger.ratings())) if closed else None
        if noise and noise != self._noise and noise.repeats % ENOUGH == 0:
            self._progress.note(str(noise))
            self._noise = noise

    def asks(self) -> bool:
        """Whether something waits for the person; if so it is asked about, or waited for a little.

        Raises:
            Paused: the person stopped, or nobody is there.
        """
        waiting = len(awaited(self._study))
        if not waiting:
            return False
        if self._config.scoring.page:
            self._progress.step(f"{FOR_YOU}ratings of {waiting} trial{'s' if waiting > 1 else ''}")
            time.sleep(PACE)
        else:
            with self._progress.quiet(), self._stop.at_once():
                rate_in_terminal(self._folder, self._scorer)
        return True

    def _report_of(self, trial: FrozenTrial, total: int) -> TrialReport:
        value = value_of(trial) if trial.state == TrialState.COMPLETE else None
        others = [value_of(one) for one in complete_trials(self._study) if one.number != trial.number]
        known = standing(self._study, whole=True)
        return TrialReport(
            number=trial.number,
            done=finished(self._study),
            total=total,
            value=value,
            best=known.best,
            improved=value is not None and all(value > other for other in others),
            scores=mean_scores(trial.user_attrs.get(SCORES) or []) if value is not None else {},
            reason=trial.user_attrs.get(REASON),
            seconds=trial.user_attrs.get(SECONDS, 0.0),
            mean=known.mean,
            front=known.front,
            pictures=len(trial.user_attrs.get(IMAGES, ())),
            blind=True,  # what is asked next may not be coloured by how good this one is
        )

    def _keep(self, trial: FrozenTrial, found: TrialReport) -> None:
        """Write into a trial's pictures what it got, or delete them if only the best are kept."""
        paths = self._folder.pictures(trial.user_attrs.get(IMAGES, ()))
        if self._config.images == "best" and not found.improved and not self._config.objectives:
            forget(paths)
            return
        for path in paths:
            add_texts(path, {"Score": f"{found.value:.4f}"})

    def _redraw_lost(self) -> None:
        """Trials whose pictures are no longer there wait to be drawn again."""
        lost = {
            one.number
            for one in awaited(self._study)
            if len(self._folder.pictures([picture.image for picture in one.pictures])) < len(one.pictures)
        }
        if lost:
            with transaction(self._study) as queue:
                queue_again(queue, [entry for entry in queue.entries() if entry.number in lost])
            self._progress.note(f"{len(lost)} trials that wait for ratings have lost pictures and are drawn again")


def played_off(
    setup: RunSetup, study: optuna.study.Study, folder: RunFolder, progress: ProgressReporter, stop: StopSignal
) -> PlayOff | None:
    """The play-off of the best merges, once its champion is known; None where there is none.

    Raises:
        Interrupted: somebody asked to stop.
        Paused: the person stopped, or nobody is there.
    """
    scoring = setup.config.scoring
    if not scoring.playoff or not (known := begin_play_off(study, folder, scoring.playoff)):
        return None
    if known.champion is None:
        progress.note(f"the best {len(known.trials)} merges are compared in pairs, blind; without:  scoring.playoff=0")
    while known is not None and known.champion is None:
        stop.check()
        if scoring.page:
            progress.step(f"{FOR_YOU}comparisons")
            time.sleep(PACE)
        else:
            with progress.quiet(), stop.at_once():
                compare_in_terminal(folder, setup.scorers[setup.rater or ""])
        known = play_off_of(study, {trial.number for trial in complete_trials(study)})
    return known
