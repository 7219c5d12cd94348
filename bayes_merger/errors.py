"""Everything this package raises on purpose.

::

    BayesMergerError            one line for the user; ``exit_code`` is the process's
    ├── UserError               bad input: names the thing, the value and the way out (2)
    │   ├── ConfigError         a setting, a rule, a payload, a scorer
    │   ├── CheckpointError     a model file, or models that do not fit together
    │   │   └── Missing         one that is not there
    │   ├── StorageError        a disk or a database that cannot be read or written now
    │   └── Closed              a trial that was rated elsewhere in the meantime; nothing is lost
    ├── TrialFailed             one trial could not be judged; the study records FAIL and this text (1)
    ├── Superseded              one trial's score is not needed: another worker was faster; the run goes on (1)
    ├── Paused                  the person went away; everything is kept, ``resume`` goes on (3)
    └── Interrupted             Ctrl-C or a polite kill; everything is kept, ``resume`` goes on (130)
"""

from __future__ import annotations

import difflib
import errno
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

_LONGEST = 1500  # characters of an error


class BayesMergerError(Exception):
    """Root of the tree; its text is one line that a user can act on, however long the names are that it quotes."""

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__(_bounded(text))


class UserError(BayesMergerError):
    """Bad input, found before the first GPU second.

    Attributes:
        subject: what it is about (a setting, ``model_b``, ``recipe``, a file); the text begins with it. May be empty.
        reason: the text without it.
    """

    exit_code = 2

    def __init__(self, reason: str, *, subject: str = "") -> None:
        super().__init__(f"{subject}: {reason}" if subject else reason)
        self.subject, self.reason = subject, reason


class ConfigError(UserError):
    """A setting, a rule, a payload or a scorer that makes no sense."""


class CheckpointError(UserError):
    """A model file that cannot be used, or models that do not fit together."""


class Missing(CheckpointError):
    """A model file that is not where it is said to be."""


class StorageError(UserError):
    """A disk or a database that cannot be read or written now: nothing that was stored is lost."""


class Closed(UserError):
    """A trial that somebody, or another page of the same person, has closed in the meantime: nothing is lost."""


class TrialFailed(BayesMergerError):
    """One trial could not be judged: the study records FAIL with this reason, never a score."""


class Superseded(BayesMergerError):
    """A worker was presumed dead and another one has finished its trial; this one goes on with the next."""


class Paused(BayesMergerError):
    """The person stopped for now; nothing is lost and ``bayes-merger resume`` goes on."""

    exit_code = 3


class Interrupted(BayesMergerError):
    """The process was asked to stop; nothing is lost and ``bayes-merger resume`` goes on."""

    exit_code = 130


def _bounded(text: str) -> str:
    """A text without words of thousands of letters, as hostile files have them; what it begins and ends with stays."""
    text = re.sub(r"\S{301,}", lambda word: f"{word[0][:180]}...{word[0][-100:]}", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} ... {text[-400:]}"


def close_to(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a misspelt one may mean, at most three.

    >>> close_to("bays", ["bayes", "tpe"])
    ['bayes']
    """
    lower = {candidate.lower(): candidate for candidate in known}
    return [lower[found] for found in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]


def nearest(name: str, known: Iterable[str], *, listed: int = 12) -> str:
    """The way out of a misspelt name: the closest known names, or the whole list when none is close.

    >>> nearest("bays", ["bayes", "tpe"])
    'did you mean bayes?'
    """
    names = sorted(set(known))
    if not names:
        return "there is none"
    if close := close_to(name, names):
        return f"did you mean {' or '.join(close)}?"
    more = f", ... ({len(names)} in all)" if len(names) > listed else ""
    return f"known: {', '.join(names[:listed])}{more}"


def and_more(names: Sequence[str], *, listed: int = 3) -> str:
    """The first few of some names, and how many more there are.

    >>> and_more(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - listed} more" if len(names) > listed else ""
    return ", ".join(names[:listed]) + more


def counted(count: int, word: str) -> str:
    """So many of something.

    >>> counted(1, "picture"), counted(2, "picture")
    ('1 picture', '2 pictures')
    """
    return f"{count} {word}{'' if count == 1 else 's'}"


def one_line(value: object, *, longest: int = 120) -> str:
    """A text as one line of limited length."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def printable(text: str, *, longest: int = 120) -> str:
    """A name from a file that is not trusted, safe to show on one line of a terminal."""
    if text.isprintable() and len(text) <= longest:  # asked for every tensor of a header
        return text
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


_SYSTEM = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EFBIG: "a file may not grow further; raise the limit (ulimit -f) or use another file system",
    errno.EROFS: "{what} is on a read-only disk; give another folder",
    errno.EACCES: "{what} may not be read or written; change its permissions, or give another folder",
    errno.EPERM: "{what} may not be changed; change its permissions, or give another folder",
    errno.EIO: "the disk cannot be read or written (input/output error); check it",
    errno.ENAMETOOLONG: "{what} is too long a name for this disk; choose a shorter one",
    errno.ELOOP: "{what} is a link that leads to itself; give the file",
    errno.ENOMEM: "there is not enough memory; close other programs",
}
"""What the system says -> what the user can do."""

_FULL = r"[Oo]ut of memory|_STATUS_ALLOC_FAILED"

_SAID = {
    rf"(CUDA|CUBLAS|CUDNN|HIP|MPS).*({_FULL})": (
        "the GPU has no memory left; draw fewer pictures at once (generator.max_batch=1) or smaller ones, or end what "
        "else uses it"
    ),
    r"database or disk is full|No space left": _SYSTEM[errno.ENOSPC],
    r"readonly database|read-only transaction": "the study's database may not be written; change its permissions",
    r"too many (clients|connections)|connection slots are reserved": (
        "the study's server has no connection free; raise max_connections"
    ),
    r"lock timeout": "another process holds the study's lock for minutes; end it",
    r"database is locked": "another program holds the study's database; end it",
    r"unable to open database file|no such table": "the study's database is gone or cannot be opened; put it back",
    r"disk I/O error": "the study's database cannot be written (disk full, a limit on file sizes, or a broken disk)",
    r"malformed|not a database|disk image": "the study's database is damaged; put a copy in its place",
    r"[Cc]annot allocate memory|failed to map segment|bad_alloc|can't start new thread": _SYSTEM[errno.ENOMEM],
}
"""What a database or a loader says -> what the user can do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left; torch, cuBLAS and cuDNN each say it in their way."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or re.search(_FULL, str(error)) is not None


def trouble(error: BaseException) -> str | None:
    """What the surroundings did to us (disk, database, memory), with the way out; None for a fault of our own.

    Libraries wrap what the system said, so the whole chain of causes is looked through.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, MemoryError):
            return _SYSTEM[errno.ENOMEM]
        if isinstance(link, OSError) and link.errno in _SYSTEM:
            return _SYSTEM[link.errno].format(what=printable(str(link.filename or "a file")))
    for link in chain:
        for words, text in _SAID.items():
            if (_of_database(link) or isinstance(link, ImportError | OSError | RuntimeError)) and re.search(
                words, str(link)
            ):
                return text
    if (told := next((link for link in reversed(chain) if _of_database(link)), None)) is not None:
        return f"the study's database failed ({one_line(told)})"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; a ring of causes is gone round once."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _of_database(error: BaseException) -> bool:
    """Whether a database or its driver raised it; none of them is imported for the question."""
    rooms = ("sqlalchemy.exc", "psycopg", "optuna.exceptions")
    return isinstance(error, sqlite3.Error) or type(error).__module__.startswith(rooms)
