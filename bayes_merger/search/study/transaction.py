"""One change of a study's queue: it happens as a whole, and no two overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from optuna.storages import RDBStorage
from optuna.study import Study

from bayes_merger.search.study.entry import Transaction
from bayes_merger.search.study.lock import place_in_line, study_lock
from bayes_merger.search.study.postgres import ServerTransaction
from bayes_merger.search.study.storage import database_file, underlying
from bayes_merger.search.study.tables import TableTransaction, are_known
from bayes_merger.search.study.through_optuna import OptunaTransaction


@contextmanager
def transaction(study: Study, *, in_line: bool = True) -> Iterator[Transaction]:
    """A study's queue, for as long as nobody else changes it.

    Nothing slow belongs into this block, and nothing that reads the study in another way: it would wait for this one.

    Optuna's tables are written directly where they are those that we know, otherwise through its API.

    Args:
        study: shared with any number of others.
        in_line: wait for this process's turn; False where it holds the study's lock already, or needs no more than
            what each statement sees for itself: it looks, adds trials, or gives a sign of life.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be reached or written; nothing has changed, or all has.
        optuna.exceptions.StorageInternalError: the same.
    """
    storage = underlying(study)
    if not isinstance(storage, RDBStorage):
        yield OptunaTransaction(study, storage)
    elif are_known(storage):
        line = place_in_line(study)
        with storage.engine.begin() as connection:
            if in_line:
                line(connection)
            kind = TableTransaction if database_file(storage) else ServerTransaction
            yield kind(connection, study._study_id)
    else:
        with study_lock(study) if in_line else nullcontext():
            yield OptunaTransaction(study, storage)
