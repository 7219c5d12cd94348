"""Where a run leaves trials for a person and finds their scores, while it goes on drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from PIL import Image
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import Closed, TrialFailed
from bayes_merger.run.attributes import IMAGES, SCORES, WEIGHTS
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.pictures import add_texts, write_grid
from bayes_merger.run.progress import ProgressReporter, StopSignal, TrialReport
from bayes_merger.run.rating.asking import asked_about
from bayes_merger.run.rating.awaiting import Question, awaited, settle
from bayes_merger.run.rating.sitting import Sitting, Trial
from bayes_merger.run.record import mean_scores, value_of
from bayes_merger.run.setup import RunSetup, candidate_id
from bayes_merger.run.standing import standing
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.search.study.history import AWAITING, REASON
from bayes_merger.search.study.queue import queue_again
from bayes_merger.search.study.stopping import SECONDS
from bayes_merger.search.study.transaction import transaction

if TYPE_CHECKING:
    from bayes_merger.run.evaluator import Unrated

Seating = Callable[[RunFolder, ProgressReporter], AbstractContextManager[None]]
"""Opens a place where a person rates a study while it runs, such as a page."""


@contextmanager
def no_seat(folder: RunFolder, progress: ProgressReporter) -> Iterator[None]:
    """No place of the run's own: ratings come through ``bayes-merger rate``, from another process."""
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
        assert setup.rater is not None
        self._setup = setup
        self._study = study
        self._folder = folder
        self._progress = progress
        self._stop = stop
        self._scorer: Any = setup.scorers[setup.rater]
        self._ledger: Ledger = self._scorer.ledger
        self._redraw_lost()
        self._open = {one.number for one in awaited(study)}

    @property
    def ahead(self) -> int:
        """How many trials may wait for their scores; in the terminal each is asked about when it is drawn."""
        return self._setup.config.scoring.ahead if self._setup.config.scoring.page else 1

    def set_aside(self, trial: FrozenTrial, found: Unrated) -> dict[str, Any]:
        """What is stored on a trial that is drawn and waits for the person."""
        candidate = candidate_id(trial.user_attrs[WEIGHTS])
        names = [path.relative_to(self._folder.path).as_posix() for path in found.paths]
        asked = [
            Question(candidate, image.payload, image.index, image.seed, name)
            for image, name in zip(found.images, names, strict=True)
        ]
        scoring = self._setup.config.scoring
        every = scoring.repeats if scoring.unit == "picture" else 0
        about = asked_about(self._study, trial, self._folder, self._scorer.name, candidate, asked, every)
        self._open.add(trial.number)
        return {SCORES: [vars(score) for score in found.scores], IMAGES: names, AWAITING: about.stored()}

    def waiting(self) -> int:
        """How many trials wait for the person, or for their scores to be stored."""
        return len(awaited(self._study))

    def settled(self, total: int, done: int) -> Iterator[TrialReport]:
        """Those that have got their outcome since the last look, whoever saw to it.

        Args:
            total: how many trials there will be.
            done: how many are finished.
        """
        settle(self._study, self._ledger)
        closed = self._open - {one.number for one in awaited(self._study)}
        self._open -= closed
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.number in closed]
        for trial in trials:
            value = value_of(trial) if trial.state == TrialState.COMPLETE else None
            others = [value_of(t) for t in self._study.get_trials(deepcopy=False) if t.values and t.number != trial.number]
            known = standing(self._study, whole=True)
            if value is not None:
                for path in self._folder.pictures(trial.user_attrs.get(IMAGES, ())):
                    add_texts(path, {"Score": f"{value:.4f}"})
            yield TrialReport(
                number=trial.number,
                done=done,
                total=total,
                value=value,
                best=known.best,
                improved=value is not None and value > max(others, default=-1.0),
                scores=mean_scores(trial.user_attrs.get(SCORES) or []) if value is not None else {},
                reason=trial.user_attrs.get(REASON),
                seconds=trial.user_attrs.get(SECONDS, 0.0),
                mean=known.mean,
                front=known.front,
                pictures=len(trial.user_attrs.get(IMAGES, ())),
            )

    def ask(self) -> None:
        """Ask about everything that waits, if this run has the terminal and no page.

        Raises:
            Paused: the person stopped, or nobody is there.
        """
        if self._setup.config.scoring.page:
            return
        with self._progress.quiet(), self._stop.at_once():
            rate_in_terminal(self._folder, self._scorer)

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


def rate_in_terminal(folder: RunFolder, scorer: Any) -> None:
    """Ask in this terminal about everything that waits in a study.

    Args:
        folder: the study's.
        scorer: a :class:`~bayes_merger.scoring.ManualScorer`, prepared.

    Raises:
        Paused: the person stopped, or nobody is there.
    """
    with Sitting(folder, scorer.rater, scorer.ledger.path) as sitting:
        while trials := sitting.trials():
            try:
                scorer.converse(_Sheet(sitting, trials[0]))
                sitting.confirm(trials[0].id)
            except (Closed, TrialFailed):  # by another rater, or as void
                continue


class _Sheet:
    """A trial that waits, as what a terminal asks about; one that gets a single score is shown as one picture."""

    def __init__(self, sitting: Sitting, trial: Trial) -> None:
        self._sitting = sitting
        self._trial = trial
        self._pictures = trial.pictures if trial.unit == "picture" else trial.pictures[:1]

    def __len__(self) -> int:
        return len(self._pictures)

    def payload(self, number: int) -> str:
        return self._pictures[number].payload if self._trial.unit == "picture" else "all together"

    def prompt(self, number: int) -> str:
        return self._pictures[number].prompt

    def picture(self, number: int) -> tuple[Path, Image.Image]:
        path = self._pictures[number].path
        if len(self._pictures) < len(self._trial.pictures):
            path = self._sitting.folder.path / "to_rate.png"
            write_grid(path, [Image.open(picture.path) for picture in self._trial.pictures])
        return path, Image.open(path)

    def score(self, number: int) -> float | None:
        return self._sitting.score_of(self._pictures[number].id)

    def rate(self, number: int, score: float, ms: int) -> None:
        self._sitting.rate(self._pictures[number].id, score, ms)

    def undo(self) -> int | None:
        found = self._sitting.undo(self._trial.id)
        ids = [picture.id for picture in self._pictures]
        return ids.index(found) if found in ids else 0 if found == self._trial.id else None

    def void(self, number: int) -> None:
        self._sitting.void(self._pictures[number].id)
        raise TrialFailed("marked void")
