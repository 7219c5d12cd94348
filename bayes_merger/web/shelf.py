"""The studies that a browser sees: found by name among those that are there, read again only after they changed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna

from bayes_merger.errors import printable
from bayes_merger.report.contents import contents_of
from bayes_merger.report.overview import Overview, overview
from bayes_merger.report.page import sections, trial_rows
from bayes_merger.run.control import run_state
from bayes_merger.run.folder import RunFolder, load, studies
from bayes_merger.run.rating.album import opaque
from bayes_merger.search.study.history import AWAITING
from bayes_merger.web.answers import NotFound

KEPT = 8
"""Studies whose reports are kept."""

REST = 8
"""A report that took a second to make is made again after so many seconds at the earliest: a run needs its cores."""

ELSEWHERE = 10.0
"""Seconds after which a study in a database of its own counts as changed."""


@dataclass(frozen=True)
class Seen:
    """A study as it was at one moment.

    Attributes:
        version: equal versions mean equal answers.
        running: whether a run draws on it.
        drawing: the trials that are being drawn.
        waiting: how many trials wait for a person.
        newest: id of the picture of what was drawn last; empty without one.
        summary: as :func:`~bayes_merger.report.summary.summary` gives it.
        trials: as :func:`~bayes_merger.report.summary.trials_data` gives them.
        parts: of the report, as HTML; the table of trials is empty.
        rows: of that table, trial -> HTML.
        pictures: id -> file of every picture that these parts show.
        until: second of the clock up to which it stands in for what has happened since.
    """

    version: str
    running: bool
    drawing: Sequence[int]
    waiting: int
    newest: str
    summary: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]
    parts: Mapping[str, str]
    rows: Mapping[int, str]
    pictures: Mapping[str, Path]
    until: float


class Shelf:
    """All studies under one folder. No name and no id that is asked for becomes a path.

    Args:
        runs: the folder.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(self, runs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.runs, self._clock = runs, clock
        self._overviews: dict[str, tuple[str, Overview]] = {}
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._reading: dict[str, threading.Lock] = {}

    def folders(self) -> list[RunFolder]:
        """Of all studies, the one touched last first."""
        return studies(self.runs)

    def folder(self, name: str) -> RunFolder:
        """Of one study.

        Raises:
            NotFound: there is none of that name.
        """
        for folder in self.folders():
            if folder.name == name:
                return folder
        raise NotFound(f"there is no study '{printable(name)}' in {self.runs}")

    def version(self, folder: RunFolder) -> str:
        """Another one whenever a study may have changed."""
        marks: list[object] = [folder.name, run_state(folder)]
        for path in (folder.database, Path(f"{folder.database}-wal"), folder.pointer, folder.preview):
            with suppress(OSError):
                found = path.stat()
                marks += [path.name, found.st_mtime_ns, found.st_size]
        if not folder.database.is_file():
            marks.append(self._clock() // ELSEWHERE)
        return opaque(*marks)

    def overview(self, folder: RunFolder) -> Overview:
        """A study in a line; one that cannot be read says why."""
        version = self.version(folder)
        known = self._overviews.get(folder.name)
        if known is None or known[0] != version:
            known = self._overviews[folder.name] = version, overview(folder)
        return known[1]

    def thumbnail(self, folder: RunFolder) -> Path | None:
        """The first picture of the best merge, or of what was drawn last."""
        best = self.overview(folder).trial
        kept = sorted(folder.images(best).glob("*.png")) if best is not None else []
        names = [str(path.relative_to(folder.path)) for path in (*kept[:1], folder.preview)]
        return next(iter(folder.pictures(names)), None)

    def seen(self, folder: RunFolder) -> Seen:
        """A study's report, at most a few seconds old.

        Raises:
            ConfigError: what the study holds is not what a run writes.
            StorageError: it cannot be read.
        """
        with self._reading.setdefault(folder.name, threading.Lock()):
            known, begun = self._seen.get(folder.name), self._clock()
            version = self.version(folder)
            if known is None or (known.version != version and begun >= known.until):
                known = _look(folder, version)
                now = self._clock()
                known = replace(known, until=now + REST * (now - begun))
            self._seen[folder.name] = known
            self._seen.move_to_end(folder.name)
            while len(self._seen) > KEPT:
                self._seen.popitem(last=False)
            return known


def _look(folder: RunFolder, version: str) -> Seen:
    study, running = load(folder), run_state(folder)
    found = contents_of(study, folder)
    if running:
        found = replace(found, summary={**found.summary, "state": running})
    open_trials = [one for one in study.get_trials(deepcopy=False) if one.state == optuna.trial.TrialState.RUNNING]
    pictures: dict[str, Path] = {}
    newest = [_shown(pictures, path) for path in folder.pictures([folder.preview.name])]
    return Seen(
        version,
        bool(running),
        [one.number for one in open_trials if AWAITING not in one.user_attrs] if running else [],
        sum(AWAITING in one.user_attrs for one in open_trials),
        newest[0] if newest else "",
        found.summary,
        found.trials,
        sections(found, lambda path, *_: f"{address(folder)}/pictures/{_shown(pictures, path)}", listed=0),
        trial_rows(found),
        pictures,
        0.0,
    )


def address(folder: RunFolder) -> str:
    """Where a study's data are."""
    return f"/api/v1/studies/{quote(folder.name, safe='')}"


def picture_id(path: Path) -> str:
    """What a picture is called, which changes with its file."""
    changed = 0
    with suppress(OSError):
        changed = path.stat().st_mtime_ns
    return opaque(path, changed)


def _shown(pictures: dict[str, Path], path: Path) -> str:
    """The id of a picture, remembered."""
    pictures[id := picture_id(path)] = path
    return id
