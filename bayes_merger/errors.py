"""Everything this package raises on purpose.

::

    BayesMergerError            one line for the user; ``exit_code`` is the process's
    ├── UserError               bad input: names the thing, the value and the way out (2)
    │   ├── ConfigError         a setting, a rule, a payload, a scorer
    │   └── CheckpointError     a model file, or models that do not fit together
    ├── TrialFailed             one trial could not be judged; the study records FAIL and this text (1)
    ├── Superseded              one trial's score is not needed: another worker was faster; the run goes on (1)
    ├── Paused                  the person went away; everything is kept, ``resume`` goes on (3)
    └── Interrupted             Ctrl-C or a polite kill; everything is kept, ``resume`` goes on (130)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BayesMergerError(Exception):
    """Root of the tree; its text is one line that a user can act on."""

    exit_code = 1


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


def nearest(name: str, known: Iterable[str], *, listed: int = 12) -> str:
    """The way out of a misspelt name: the closest known names, or the whole list when none is close.

    >>> nearest("bays", ["bayes", "tpe"])
    'did you mean bayes?'
    """
    names = sorted(set(known))
    lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(lower[found] for found in close)}?"
    more = f", ... ({len(names)} in all)" if len(names) > listed else ""
    return f"known: {', '.join(names[:listed])}{more}"


def and_more(names: Sequence[str], *, listed: int = 3) -> str:
    """The first few of some names, and how many more there are.

    >>> and_more(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - listed} more" if len(names) > listed else ""
    return ", ".join(names[:listed]) + more


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
