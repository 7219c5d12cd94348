"""Ask for merges and tell what they got, of studies that draw none themselves; see :mod:`bayes_merger.run.lending`.

Nothing stays open between two calls, so a server that is killed and started again knows all that it knew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from bayes_merger.compose.building import build, check_trusted
from bayes_merger.errors import ConfigError
from bayes_merger.run import lending
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.idle import space_of
from bayes_merger.run.lending import DAY, Loan, Told
from bayes_merger.run.outside import check_told, is_outside
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.study.loading import load_study
from bayes_merger.search.study.storage import backend, open_storage, put_to_rest


def ask(folder: RunFolder, borrower: str = "", hours: float = DAY) -> Loan:
    """The next merge to draw; see :func:`bayes_merger.run.lending.lend`."""
    with opened(folder) as study:
        return lending.lend(study, borrower, hours)


def tell(folder: RunFolder, trial: int, score: float | None, reason: str = "") -> Told:
    """What a merge got; see :func:`bayes_merger.run.lending.take_back`."""
    with opened(folder) as study:
        return lending.take_back(study, trial, score, reason)


def begun_outside(folder: RunFolder) -> optuna.study.Study | None:
    """A study that a run has begun with ``generator=outside``, opened to be written to; None where there is none."""
    if not folder.exists():
        return None
    try:
        known = load(folder, whole=False)
    except ConfigError:  # nothing, or one that was killed while it was made
        return None
    return _to_write(folder, known) if is_outside(known.user_attrs[CONFIG]) else None


@contextmanager
def opened(folder: RunFolder) -> Iterator[optuna.study.Study]:
    """A study that draws no merges itself, with its own optimiser, to be written to.

    Raises:
        ConfigError: it draws its merges itself, or names an optimiser that is not to be trusted.
    """
    known = load(folder, whole=False)
    check_told(known)
    study = _to_write(folder, known)
    try:
        yield study
    finally:
        put_to_rest(backend(study))


def _to_write(folder: RunFolder, known: optuna.study.Study) -> optuna.study.Study:
    config = known.user_attrs[CONFIG]
    check_trusted(config, ())
    factory = build("optimiser", config["optimiser"], _partial_=True)
    sampler = make_sampler(factory, space_of(known).distributions(), int(config.get("seed") or 0))
    return load_study(
        open_storage(folder.where, create=False), folder.called, sampler, alone=not folder.address, shown=folder.name,
        whole=False,
    )  # fmt: skip
