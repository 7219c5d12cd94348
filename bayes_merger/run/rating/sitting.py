"""One person's sitting at a study: what there is to rate, and what they say of it.

Everything that a page or a terminal needs, and nothing that tells a candidate from another: ids are opaque, and nobody
sees numbers of trials, weights or scores of other judges. Whatever is said is on the disk before the call returns, in
the ledger; any number of sittings, threads and processes may work on one study.

::

    with Sitting(folder, rater="ann") as sitting:
        while trials := sitting.trials():
            for picture in trials[0].pictures:
                sitting.rate(picture.id, ask(picture.path))
            sitting.confirm(trials[0].id)
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from bayes_merger.errors import Closed, ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import CONFIG, IMAGES, PAYLOADS, PLAYOFF
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.points import scoring_of
from bayes_merger.run.rating.album import Album, Shown, opaque
from bayes_merger.run.rating.album import Picture as Picture
from bayes_merger.run.rating.awaiting import Answers, Awaiting, Question, closing
from bayes_merger.run.rating.noise import rater_noise
from bayes_merger.run.rating.playoff import Bracket, PlayingOff, Side, begin_play_off
from bayes_merger.run.rating.queue import Queue, score_of
from bayes_merger.run.rating.queue import Trial as Trial
from bayes_merger.run.rating.settling import settle
from bayes_merger.run.record import complete_trials, value_of
from bayes_merger.run.standards import seen_standardised
from bayes_merger.run.stored import check_stored
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.rating import Kind, Rating
from bayes_merger.search.study.lock import is_free
from bayes_merger.search.study.stopping import STOPPED
from bayes_merger.search.study.storage import backend, open_storage, put_to_rest
from bayes_merger.search.study.study import finished, load_study

MIXED = 2
"""How many trials are shown mixed; fewer than may wait, so that the run draws on meanwhile."""

RECENT = 50
"""Ratings that the usual time of one is taken from."""


@dataclass(frozen=True)
class State:
    """How far a study is.

    Attributes:
        version: another one whenever something has changed; equal versions mean equal answers.
        done: trials that have a score.
        total: trials that there will be.
        waiting: trials that wait for a person.
        rated: pictures of the first waiting trial that have a score.
        pictures: how many it has.
        running: whether a run draws on this study now.
        over: whether the search is over; nothing more will come.
        seconds: the usual time of one rating; None before the first.
        left: seconds until all is rated, at that pace; None before the first.
        sd: standard deviation of the rater's own noise, in points; None before enough repeats.
    """

    version: str
    done: int
    total: int
    waiting: int
    rated: int
    pictures: int
    running: bool
    over: bool
    seconds: float | None
    left: float | None
    sd: float | None


class Sitting:
    """A person at a study; a context manager.

    Args:
        folder: the study's.
        rater: who it is, for the ledger.
        ledger: where the ratings are; None: in the study's folder.

    Raises:
        ConfigError: there is no such study, or it holds what no run writes.
        StorageError: it cannot be read.
    """

    def __init__(self, folder: RunFolder, rater: str = "", ledger: Path | None = None) -> None:
        self.folder = folder
        self.rater = rater
        self.ledger = Ledger(ledger or folder.ratings)
        storage = open_storage(folder.where, create=False)
        self.study: optuna.study.Study = load_study(
            storage, folder.called, alone=not folder.address, shown=folder.name, whole=False
        )
        check_stored(self.study)
        seen_standardised(self.study)
        scoring = scoring_of(self.study.user_attrs.get(CONFIG) or {})
        self.unit = scoring.unit
        payloads = [Payload.from_json(payload) for payload in self.study.user_attrs.get(PAYLOADS) or ()]
        self._pictures = sum(len(payload.seeds) for payload in payloads)
        self._album = Album(folder, {payload.name: payload.prompts for payload in payloads})
        self._playing = PlayingOff(self.study, folder, self.ledger, self._album)
        self._queue = Queue(self.study, self._album, scoring.unit, MIXED if scoring.shuffle else 1)
        self._lock = threading.RLock()
        settle(self.study, self.ledger)  # what a process that died has left

    def __enter__(self) -> Sitting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the study."""
        put_to_rest(backend(self.study))

    def trials(self) -> list[Trial]:
        """What waits to be rated, oldest first; what was put off comes last."""
        with self._lock:
            return self._queue.trials(self.ledger.ratings())

    def rate(self, what: str, score: float, ms: int | None = None) -> None:
        """Give a picture a score of 0 to 10, or with the unit ``trial`` a whole trial; a later score replaces it.

        Args:
            what: id of the picture; with the unit ``trial``, of a picture or a trial.
            score: 0 to 10.
            ms: how long the person took, in milliseconds.

        Raises:
            Closed: the trial was closed in the meantime.
            ConfigError: no such picture, or the score is out of range.
        """
        with self._writing():
            if self.unit == "trial":
                for one in self._queue.members(what):
                    self._say("score", one, ms=ms, score=score)
                return
            shown = self._queue.question(what)
            kind: Kind = "repeat" if shown.repeated else "score"
            self._say(kind, shown.one, shown.question, ms=ms, score=score)

    def undo(self, trial: str | None = None) -> str | None:
        """Take back the last thing that this rater said of trials that are still open.

        Args:
            trial: only what was said of this one.

        Returns:
            The id of the picture that it was about, or of the trial, or of the pair of a play-off; None if there is
            nothing to take back.
        """
        with self._writing():
            groups = [trial] if trial else [one.id for one in self.trials()]
            numbers = {one.number for group in groups for one in self._queue.members(group)}
            bracket = None if trial else self._playing.bracket()
            playing = bracket is not None and not bracket.over

            def is_open(line: Rating) -> bool:
                said = line.kind in ("score", "repeat", "later") and line.trial in numbers
                return line.rater == self.rater and (said or (playing and line.kind == "prefer"))

            found = self.ledger.undo(only=is_open)
            if found is None:
                return None
            return self._playing.pair_of(found) if found.kind == "prefer" else self._queue.about(found)

    def score_of(self, picture: str) -> float | None:
        """What a picture was given so far, 0 to 10.

        Raises:
            ConfigError: no such picture.
        """
        with self._lock:
            return score_of(self._queue.question(picture), Answers(self.ledger.ratings()))

    def later(self, trial: str) -> None:
        """Put a trial off: it comes after all others that wait.

        Raises:
            Closed: it was closed in the meantime.
        """
        with self._writing():
            for one in self._queue.members(trial):
                self._say("later", one)

    def void(self, what: str) -> None:
        """Say of a trial that it cannot be judged (broken, not bad): it fails, and the optimiser learns nothing of it.

        Args:
            what: id of the trial; or of a picture, which tells of several merges shown together whose it is.

        Raises:
            Closed: it was closed in the meantime.
        """
        with self._writing():
            found = (self._queue.question(what).one,) if what in self._album else self._queue.members(what)
            for one in found:
                self._say("void", one)
        settle(self.study, self.ledger)

    def confirm(self, trial: str) -> None:
        """Say that a trial's scores are final: the optimiser is told.

        Raises:
            ConfigError: pictures have no score yet.
            Closed: it was closed in the meantime.
        """
        with self._writing():
            found = self._queue.members(trial)
            missing = self._queue.trial(found, Answers(self.ledger.ratings())).unrated
            if missing:
                raise ConfigError(f"{missing} of this trial's pictures have no score yet; rate them, then confirm")
            for one in found:
                self._say("confirm", one)
        settle(self.study, self.ledger)

    def state(self) -> State:
        """How far the study is."""
        trials = self.trials()
        with self._lock:
            stored, done = self.study.user_attrs, finished(self.study)
            settings = stored.get(CONFIG) or {}
            budget = int(settings.get("init_points", 0)) + int(settings.get("n_iters", 0))
            waiting = sum(len(self._queue.members(trial.id)) for trial in trials)
            total = done + waiting if stored.get(STOPPED) else max(budget, done + waiting)
            ratings = self.ledger.ratings()
            took = [r.ms / 1000 for r in ratings if r.ms is not None and r.kind in ("score", "repeat")]
            usual = statistics.median(took[-RECENT:]) if took else None
            missing = sum(trial.unrated for trial in trials)
            each = 1 if self.unit == "trial" else self._pictures
            left = None if usual is None else usual * (missing + each * max(total - done - waiting, 0))
            first = trials[0] if trials else None
            seen = opaque(self.ledger.size, done, stored.get(PLAYOFF), *(trial.id for trial in trials))
            return State(
                version=seen,
                done=done,
                total=total,
                waiting=waiting,
                rated=sum(picture.score is not None for picture in first.pictures) if first else 0,
                pictures=len(first.pictures) if first else 0,
                running=not is_free(self.folder.path / ".lock"),
                over=total <= done,
                seconds=usual,
                left=left,
                sd=noise.sd if (noise := rater_noise(Answers(ratings))) else None,
            )

    def best_picture(self, picture: str) -> Picture | None:
        """The same prompt and seed by the merge with the best score so far; None before there is one.

        Args:
            picture: id of the one to be compared.

        Raises:
            ConfigError: no such picture.
        """
        with self._lock:
            question = self._queue.question(picture).question
            for trial in sorted(complete_trials(self.study), key=lambda trial: -value_of(trial)):
                name = f"{question.payload}-{question.index}.png"
                for image in trial.user_attrs.get(IMAGES, ()):
                    own = Question("best", question.payload, question.index, question.seed, image)
                    if Path(image).name == name and self._album.has(own):
                        best = Awaiting(trial.number, trial._trial_id, "", "best", 0, (own,), ())
                        return self._album.show(Shown(best, own, repeated=False))
            return None

    def path_of(self, picture: str) -> Path:
        """The file of a picture that this sitting has shown, or will.

        Raises:
            ConfigError: no such picture.
        """
        with self._lock:
            self._find(picture)
            return self._album.path(picture)

    def bytes_of(self, picture: str) -> bytes:
        """A picture's file without the texts in it, which tell what merge it is.

        Raises:
            ConfigError: no such picture.
        """
        with self._lock:
            self._find(picture)
            return self._album.contents(picture)

    def play_off(self) -> Bracket | None:
        """The pairs of the play-off; None before the search is over, or if there is none."""
        with self._lock:
            found = self._playing.bracket()
            count = scoring_of(self.study.user_attrs.get(CONFIG) or {}).playoff
            if found is None and count and not self.trials():
                state = self.state()
                if state.over and not state.running and begin_play_off(self.study, self.folder, count):
                    return self._playing.bracket()
            return found

    def prefer(self, pair: str, side: Side, ms: int | None = None) -> None:
        """Say which picture of a pair is better; a later answer replaces it.

        Args:
            pair: its id.
            side: ``left``, ``right`` or ``neither``.
            ms: how long the person took, in milliseconds.

        Raises:
            Closed: the play-off is over.
            ConfigError: no such pair.
        """
        with self._writing():
            self._playing.prefer(pair, side, ms, self.rater)

    def end_play_off(self) -> None:
        """The champion of what was compared so far becomes the best merge.

        Raises:
            ConfigError: there is no play-off.
        """
        with self._writing():
            self._playing.end()

    def _find(self, picture: str) -> None:
        """Whether a picture was shown, also in a play-off of a process before this one.

        Raises:
            ConfigError: it was not.
        """
        if picture not in self._album:
            self._playing.bracket()
        self._queue.question(picture)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Nobody closes a trial between our look and our line."""
        with self._lock, self.ledger.alone():
            yield

    def _say(self, kind: Kind, one: Awaiting, question: Question | None = None, **rest: Any) -> None:
        if one.number in closing(self.ledger.ratings()):
            raise Closed("this trial was closed in the meantime; nothing else is lost, go on with the next one")
        candidate = question.candidate if question else one.candidate
        about = (question.payload, question.index) if question else ("", 0)
        seed = question.seed if question else None
        self.ledger.append(kind, candidate, *about, seed=seed, rater=self.rater, trial=one.number, **rest)
