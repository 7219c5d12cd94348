"""The stopwatch: parts count for themselves, and nobody measures who was not asked to."""

from __future__ import annotations

import pytest

from bayes_merger.timing import Stopwatch, seconds_so_far, timed


class Clock:
    """Moves on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_inside_another_part_counts_for_itself_alone() -> None:
    clock = Clock()
    with Stopwatch(clock).running():
        with timed("draw"):
            clock.now = 1.0
            with timed("embed"):
                clock.now = 3.0
            clock.now = 3.5
        clock.now = 10.0
        with timed("draw"):
            clock.now = 10.25
        assert seconds_so_far() == {"draw": 1.75, "embed": 2.0}
    assert seconds_so_far() == {}


def test_a_part_that_fails_is_counted_too() -> None:
    clock = Clock()

    @timed("draw")
    def draw() -> None:
        clock.now += 2.0
        raise KeyError

    with Stopwatch(clock).running() as watch:
        for _ in range(2):
            with pytest.raises(KeyError):
                draw()
    assert watch.seconds == {"draw": 4.0}
    with pytest.raises(KeyError):
        draw()
    assert watch.seconds == {"draw": 4.0}
