"""What is asked for on one machine is done on the others that draw the same study, and said once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError, Interrupted
from bayes_merger.run import loop, steering
from bayes_merger.run.attributes import WISH
from bayes_merger.run.control import GO_ON, PAUSE, STOP, ask, run_state, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import complete_trials
from bayes_merger.run.wishes import Wishes, store_wish
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import evaluator_of, make_setup, open_study

Deed = Callable[[RunFolder], object]


class Paused(RecordingReporter):
    """Does something once the worker has been held for a while."""

    def __init__(self, deed: Callable[[], object]) -> None:
        super().__init__()
        self._deed, self.looks = deed, 0

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        self.looks += text == "paused"
        if text == "paused" and self.looks == 3:
            self._deed()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two folders of one study, which is in neither."""
    sqlite = f"sqlite:///{tmp_path / 'shared.db'}"
    address = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres")
    here, there = (RunFolder(tmp_path / name / tmp_path.name, address) for name in ("here", "there"))
    open_study(make_setup(n_iters=6), here)
    there.make()
    return here, there


def work(here: RunFolder, there: RunFolder, deed: Deed, later: Deed, *, locked: bool = False) -> tuple[int, Paused]:
    """How many trials a worker there finishes if here something is done in its trial 4, and later once it is held."""
    setup = make_setup(n_iters=6)
    study = loop.join_study(setup, there, {})
    progress, trials, ticks = Paused(lambda: later(here)), count(), count()

    def drawing(weights: object, baseline: object) -> str:
        if next(trials) == 4:
            deed(here)
        return ""

    stop = StopSignal(None, Wishes(there, progress, study, clock=lambda: next(ticks)))
    with there.locked() if locked else nullcontext():
        try:
            loop.search(setup, study, evaluator_of(setup, fails=drawing), there, progress, stop)
        except Interrupted as error:
            progress.note(str(error))
    return len(complete_trials(study)), progress


@pytest.mark.parametrize("locked", [False, True])
def test_a_worker_on_another_machine_is_held_until_it_may_go_on(
    machines: tuple[RunFolder, RunFolder], locked: bool
) -> None:
    here, there = machines
    states: list[str] = []

    def go_on(folder: RunFolder) -> None:
        states.append(run_state(there))
        steering.go_on(folder)

    finished, progress = work(here, there, steering.pause, go_on, locked=locked)
    assert finished == 10
    assert [line.partition(";")[0] for line in progress.lines] == ["paused", "going on"]
    assert states == (["pausing"] if locked else [""])
    assert not here.wish.exists()


def test_a_worker_on_another_machine_stops_after_its_trial(machines: tuple[RunFolder, RunFolder]) -> None:
    finished, progress = work(*machines, steering.stop, lambda folder: None)
    assert finished == 5
    assert progress.lines == ["stopped; every finished trial is kept"]


def test_a_stop_of_long_ago_is_none_of_who_joins_now(machines: tuple[RunFolder, RunFolder]) -> None:
    here, there = machines
    study = loop.join_study(make_setup(n_iters=6), here, {})
    store_wish(study, STOP)
    assert work(here, there, lambda folder: None, lambda folder: None)[0] == 10
    with pytest.raises(ConfigError, match="no run of it goes on"):
        steering.pause(here)


@pytest.mark.parametrize("stored", [None, 3, [], {}, {"wish": 3}, {"wish": "dance", "mark": "x"}, {"wish": ["pause"]}])
def test_rubbish_in_the_study_asks_for_nothing(machines: tuple[RunFolder, RunFolder], stored: Any) -> None:
    wishes = Wishes(machines[0], RecordingReporter())
    wishes.look({WISH: {"wish": GO_ON, "mark": "first"}})
    wishes.look({WISH: stored})
    assert wishes.wish == GO_ON


def test_who_joins_a_study_that_is_paused_is_held_and_a_wish_counts_once(
    machines: tuple[RunFolder, RunFolder],
) -> None:
    _, there = machines
    with there.locked():
        wishes = Wishes(there, RecordingReporter())
        wishes.look({WISH: {"wish": PAUSE, "mark": "a"}})
        assert wishes.wish == wish_of(there) == PAUSE
        ask(there, GO_ON)  # by somebody at this machine, a moment later
        wishes.look({WISH: {"wish": PAUSE, "mark": "a"}})
        assert wish_of(there) == GO_ON


def test_of_several_workers_only_their_parent_tells_that_they_are_paused(tmp_path: Path) -> None:
    folder, parent, worker = RunFolder(tmp_path / "s"), RecordingReporter(), RecordingReporter()
    with folder.locked():
        told, silent = Wishes(folder, parent), Wishes(folder, worker, says=False)
        steering.pause(folder)
        for one in (told, silent, told):
            one.tell()
    assert [line.partition(";")[0] for line in parent.lines] == ["paused"]
    assert worker.lines == []
