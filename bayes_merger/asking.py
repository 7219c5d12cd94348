"""Ask for merges and tell what they got, of studies that draw none themselves; see :mod:`bayes_merger.run.lending`."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna

from bayes_merger.compose.building import build, check_trusted
from bayes_merger.errors import ConfigError
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.idle import space_of
from bayes_merger.run.lending import DAY, Loan, Told, lend, take_back
from bayes_merger.run.outside import check_told, is_outside
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.study.loading import load_study
from bayes_merger.search.study.storage import backend, open_storage, put_to_rest


class Asking:
    """Asks of any number of studies, and tells them.

    A study that was asked stays in memory: to open one takes a tenth of a second, and to read a thousand trials of it
    more than one. Nothing else stays between two calls, neither a connection nor a lock, and what one process has not
    seen another has written.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, optuna.study.Study]] = {}
        self._one_by_one: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def ask(self, folder: RunFolder, borrower: str = "", hours: float = DAY) -> Loan:
        """The next merge to draw; see :func:`bayes_merger.run.lending.lend`."""
        with self._opened(folder) as study:
            return lend(study, borrower, hours)

    def tell(self, folder: RunFolder, trial: int, score: float | None, reason: str = "") -> Told:
        """What a merge got; see :func:`bayes_merger.run.lending.take_back`."""
        with self._opened(folder) as study:
            return take_back(study, trial, score, reason)

    @contextmanager
    def _opened(self, folder: RunFolder) -> Iterator[optuna.study.Study]:
        """A study to be written to.

        Raises:
            ConfigError: it draws its merges itself, or names an optimiser that is not to be trusted.
        """
        with self._one_by_one[folder.path]:  # else one of two who ask at the same time would be told to come back
            mark = _mark(folder)
            if mark is None or self._known.get(folder.path, (None,))[0] != mark:
                known = load(folder, whole=False)
                check_told(known)
                self._known[folder.path] = mark, _to_write(folder, known)
            study = self._known[folder.path][1]
            try:
                yield study
            finally:
                put_to_rest(backend(study))


def _mark(folder: RunFolder) -> object:
    """Another one when another study lies in the place of the one that was there; None where that cannot be told.

    Numbers of files are given anew at once, so a file's own is not enough: what a run writes when it begins is as well.
    """
    try:
        begun, stored = folder.settings.stat(), folder.database.stat()
    except OSError:
        return None
    return begun.st_mtime_ns, stored.st_dev, stored.st_ino


def begun_outside(folder: RunFolder) -> optuna.study.Study | None:
    """A study that a run has begun with ``generator=outside``, opened to be written to; None where there is none."""
    if not folder.exists():
        return None
    try:
        known = load(folder, whole=False)
    except ConfigError:  # nothing, or one that was killed while it was made
        return None
    return _to_write(folder, known) if is_outside(known.user_attrs[CONFIG]) else None


def _to_write(folder: RunFolder, known: optuna.study.Study) -> optuna.study.Study:
    config = known.user_attrs[CONFIG]
    check_trusted(config, ())
    factory = build("optimiser", config["optimiser"], _partial_=True)
    sampler = make_sampler(factory, space_of(known).distributions(), int(config.get("seed") or 0))
    return load_study(
        open_storage(folder.where, create=False), folder.called, sampler, alone=not folder.address, shown=folder.name,
        whole=False,
    )  # fmt: skip
