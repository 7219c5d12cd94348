"""Where the time of a trial goes: parts of it measure themselves for whoever holds a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

BESIDE = "beside "
"""Before the names of parts that went on while others did: the others alone add up to the whole."""

_current: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


class Stopwatch:
    """Seconds of each part of what goes on in one thread; what is inside another part counts for itself alone.

    Attributes:
        seconds: part -> seconds so far.
        beside: what other threads did meanwhile -> seconds; none of it makes the whole longer.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self._clock = clock
        self._parts: list[str] = []
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[Stopwatch]:
        """Measure every :func:`timed` part inside this block."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count this block as one part."""
        self._turn()
        self._parts.append(name)
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()

    def _turn(self) -> None:
        """Give the time since the last turn to the part that it was."""
        now = self._clock()
        if self._parts:
            self.seconds[self._parts[-1]] = self.seconds.get(self._parts[-1], 0.0) + now - self._since
        self._since = now


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count this block as a part of a trial, where somebody measures."""
    watch = _current.get()
    if watch is None:
        yield
    else:
        with watch.part(part):
            yield


def went_on_beside(seconds: Mapping[str, float]) -> None:
    """Count what another thread has done meanwhile, where somebody measures."""
    if watch := _current.get():
        for part, more in seconds.items():
            watch.beside[part] = watch.beside.get(part, 0.0) + more


def seconds_so_far() -> dict[str, float]:
    """Part -> seconds, rounded to milliseconds; empty where nobody measures."""
    watch = _current.get()
    if watch is None:
        return {}
    beside = {f"{BESIDE}{part}": seconds for part, seconds in watch.beside.items()}
    return {part: round(seconds, 3) for part, seconds in {**watch.seconds, **beside}.items()}
