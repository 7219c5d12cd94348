"""What a process that draws is asked to do: by the wish file beside it or, of a study in a database, by the study."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import Interrupted, StorageError
from bayes_merger.run.attributes import WISH
from bayes_merger.run.control import GO_ON, PACE, PAUSE, STOP, STOP_NOW, WISHES, ask, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import ProgressReporter
from bayes_merger.timing import timed

if TYPE_CHECKING:
    import optuna

REST = 5.0
"""Seconds between two looks into a database while a run is held."""


class Wishes:
    """The side of a run, or of a worker on any machine.

    Args:
        folder: of the study.
        progress: told when it pauses and goes on.
        study: read while it is held, if it is not in its folder.
        says: whether it tells people; a worker's parent does so for all of its workers.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: ProgressReporter,
        study: optuna.study.Study | None = None,
        *,
        says: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._progress, self._says, self._clock = folder, progress, says, clock
        self._study = study if folder.is_elsewhere else None
        self._known, self._until = GO_ON, -1.0
        self._stored = GO_ON
        self._mark: str | None = None
        self._told = False

    @property
    def wish(self) -> str:
        """What it is asked to do, as of an instant ago."""
        if self._clock() >= self._until:
            self._known, self._until = wish_of(self._folder), self._clock() + PACE
        return self._known if self._known != GO_ON else self._stored

    @property
    def is_to_stop(self) -> bool:
        """Whether it is asked to end."""
        return self.wish in (STOP, STOP_NOW)

    def look(self, attributes: Mapping[str, Any]) -> None:
        """Heed what a study says, wherever that was asked for; a stop of before this run is none of its business.

        Args:
            attributes: of the study, as they were read anyway.
        """
        wish, mark = stored_wish(attributes)
        known, self._mark = self._mark, mark
        if mark == known or (known is None and wish != PAUSE):
            return
        self._stored = wish
        if self._folder.is_running:  # then its wish file is for all processes that draw here, and for those who watch
            with suppress(StorageError):  # this process at least has heard it
                ask(self._folder, wish)
                self._stored, self._until = GO_ON, -1.0

    def hold(self, leaving: Callable[[], bool] = lambda: False) -> None:
        """Wait here while the run is to pause.

        Args:
            leaving: whether something else ends the wait.

        Raises:
            Interrupted: it is to stop at once.
        """
        self.tell()
        if self.wish == PAUSE:
            with timed(PAUSE):
                self._wait(leaving)
            self.tell()
        if self.wish == STOP_NOW:
            raise Interrupted("stopped at once; the unfinished trial is drawn again on resume")

    def _wait(self, leaving: Callable[[], bool]) -> None:
        rested = self._clock()
        while self.wish == PAUSE and not leaving():
            self._progress.step("paused")
            time.sleep(PACE)
            if self._study is not None and self._clock() >= rested + REST:
                self._look_there(self._study)
                rested = self._clock()

    def _look_there(self, study: optuna.study.Study) -> None:
        import optuna
        import sqlalchemy

        from bayes_merger.search.study.storage import rest

        try:
            self.look(study.user_attrs)
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError):
            return  # its server cannot be reached now
        rest(study)

    def tell(self) -> None:
        """Say once that it is paused, and once that it no longer is."""
        paused = self.wish == PAUSE
        if paused == self._told or not self._says:
            return
        self._told = paused
        if paused:
            self._progress.note(f"paused; go on with  bayes-merger resume {self._folder.typed}")
        else:
            self._progress.note("going on" if self.wish == GO_ON else "no longer paused")


def stored_wish(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """What a study asks those to do who draw it, and the mark of that; what cannot be read asks for nothing."""
    found = attributes.get(WISH)
    if not isinstance(found, Mapping) or found.get("wish") not in list(WISHES):
        return GO_ON, ""
    return found["wish"], str(found.get("mark", ""))


def store_wish(study: optuna.study.Study, wish: str) -> None:
    """Ask all who draw a study, on whatever machine; each looks between two trials."""
    study.set_user_attr(WISH, {"wish": wish, "mark": secrets.token_hex(6)})
