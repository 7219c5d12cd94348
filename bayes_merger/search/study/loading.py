"""A study that exists, opened and checked; light: nothing here knows how it is written."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study

from bayes_merger.errors import BayesMergerError, ConfigError, StorageError, nearest, one_line, trouble
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.checked import CheckedStudy
from bayes_merger.search.study.history import DESIGN, FINGERPRINT
from bayes_merger.search.study.rows import snapshot

log = logging.getLogger("bayes_merger")

_ODD = (ValueError, TypeError, KeyError, RecursionError)  # of numbers, words and JSON that no run writes


def storage_to_read(where: str | Path) -> optuna.storages.BaseStorage:
    """What a study lies in, to be read only: a file's rows as they are now, all else through Optuna.

    Raises:
        ConfigError: it is no study's.
        StorageError: it cannot be read.
    """
    if "://" not in str(where):
        with suppress(sqlite3.Error, OSError, *_ODD):  # whatever is wrong with the file is told by who reads it below
            if found := snapshot(Path(where), log.warning):
                return found
    from bayes_merger.search.study.storage import open_storage  # SQLAlchemy, which takes its time

    return open_storage(where, reading=True)


def load_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    sampler: BaseSampler | None = None,
    *,
    alone: bool = False,
    shown: str = "",
    whole: bool = True,
) -> CheckedStudy:
    """A study that exists; nothing in it is changed. Without a sampler it is only good for reading.

    Args:
        storage: from :func:`open_storage`.
        name: of the study.
        sampler: what suggests.
        alone: whether the only study of a storage is meant, whatever its name.
        shown: what people call it, if not by its name.
        whole: read all trials now, so that one that cannot be read is found.

    Raises:
        ConfigError: if there is none of that name, its creation was never completed, or it holds what no run writes.
        StorageError: if it cannot be read.
    """
    with readable(name):
        name, known = name_in(storage, name, alone)
        if name not in known:
            raise ConfigError(f"no study {name!r} here; {nearest(name, known) if known else 'there is none'}")
        study = CheckedStudy(name, storage, sampler or optuna.samplers.RandomSampler(0), shown)
        if not is_initialised(study):
            raise ConfigError(
                f"study {name!r} was interrupted while being created and holds nothing, or is another program's; start "
                "its run again"
            )
        _check_design(study.user_attrs[DESIGN])
        if whole:
            study.left_out()
    return study


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Whatever goes wrong while a database is read is one line: it is not ours alone, and may hold anything.

    Raises:
        ConfigError: it holds what no run writes.
        StorageError: it cannot be read.
    """
    try:
        yield
    except BayesMergerError:
        raise
    except Exception as error:
        if said := trouble(error):
            raise StorageError(f"study {name!r}: {said}") from error
        raise ConfigError(
            f"study {name!r}: what its database holds cannot be read ({one_line(error)}); put a copy in its place"
        ) from error


def name_in(storage: optuna.storages.BaseStorage, name: str, alone: bool) -> tuple[str, list[str]]:
    """The name of a study in its storage, where the only one may have another name; and all names there."""
    known = optuna.get_all_study_names(storage)
    return (known[0] if alone and name not in known and len(known) == 1 else name), known


def _check_design(stored: Any) -> None:
    """Whether a study's start design and its space are what :func:`create_study` wrote.

    Raises:
        ConfigError: a row that does not fit the space.
        Exception: anything else that is odd about them.
    """
    space = SearchSpace.from_json(stored["space"])
    space.distributions()
    for row in [{parameter.name: parameter.low for parameter in space.parameters}, *stored["rows"]]:
        weights = space.assemble(row)
    for row in weights.values():
        if not all(math.isfinite(number) for number in row.values()):
            raise ValueError("a frozen number is not finite")


def is_initialised(study: Study) -> bool:
    """Whether its creation was completed."""
    return DESIGN in study.user_attrs


def fingerprint_hash(study: Study) -> str:
    """Ten letters that are equal where two studies' scores compare."""
    told = json.dumps(study.user_attrs.get(FINGERPRINT), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:10]
