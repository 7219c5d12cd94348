"""A run is steered from outside, and what it says of itself counts only while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.errors import ConfigError, Interrupted, StorageError
from bayes_merger.run import loop, steering
from bayes_merger.run.control import GO_ON, PAUSE, STOP_NOW, ask, run_state, stage_of, steps_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import complete_trials
from bayes_merger.run.status import StatusReporter
from bayes_merger.run.wishes import Wishes
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import evaluator_of, make_setup, open_study

Deed = Callable[[RunFolder], object]


class Watching(RecordingReporter):
    """Does something when the run has been paused for a while."""

    def __init__(self, folder: RunFolder, deed: Deed) -> None:
        super().__init__()
        self._folder, self._deed, self.looks = folder, deed, 0

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        self.looks += text == "paused"
        if text == "paused" and self.looks == 3:
            assert run_state(self._folder) in ("pausing", "paused")
            self._deed(self._folder)


def run(path: Path, trial: int, deed: Deed, later: Deed = lambda folder: None) -> tuple[int, Watching]:
    """How many trials a run of 10 finishes if something is done in the trial of that number, and later once paused."""
    folder = RunFolder(path / "s")
    progress = Watching(folder, later)
    setup = make_setup(n_iters=6)
    study = open_study(setup, folder)
    trials = count()

    def drawing(weights: object, baseline: object) -> str:
        if next(trials) == trial:
            deed(folder)
        return ""

    ticks = count()
    stop = StopSignal(progress, Wishes(folder, progress, clock=lambda: next(ticks)))
    with folder.locked():
        try:
            loop.search(
                setup, study, evaluator_of(setup, fails=drawing), folder, StatusReporter(progress, folder), stop
            )
        except Interrupted as error:
            progress.note(str(error))
    assert all(PAUSE not in one.user_attrs["times"] for one in complete_trials(study))
    return len(complete_trials(study)), progress


def test_a_run_stops_after_its_trial(tmp_path: Path) -> None:
    finished, progress = run(tmp_path, 2, steering.stop)
    assert finished == 3
    assert progress.lines == ["stopped; every finished trial is kept"]


def test_a_run_is_held_until_it_may_go_on(tmp_path: Path) -> None:
    finished, progress = run(tmp_path, 4, steering.pause, steering.go_on)
    assert (finished, progress.looks) == (10, 3)
    assert [line.partition(";")[0] for line in progress.lines] == ["paused", "going on"]
    assert "bayes-merger resume s" in progress.lines[0]


def test_a_paused_run_is_stopped_too(tmp_path: Path) -> None:
    finished, progress = run(tmp_path, 4, steering.pause, steering.stop)
    assert finished == 5
    assert progress.lines[-1] == "stopped; every finished trial is kept"


def test_a_run_is_stopped_at_once_even_while_it_is_held(tmp_path: Path) -> None:
    finished, progress = run(tmp_path, 4, steering.pause, lambda folder: steering.stop(folder, now=True))
    assert finished == 5
    assert "stopped at once" in progress.lines[-1]


def test_a_run_finds_the_trials_that_it_is_given(tmp_path: Path) -> None:
    finished, progress = run(tmp_path, 8, lambda folder: steering.give_trials(folder, 8))
    assert finished == 12
    assert [report.total for report in progress.reports][-2:] == [12, 12]
    assert '"n_iters": 8' in (tmp_path / "s/config.json").read_text()


@pytest.mark.parametrize("trials", [6, 0, -5, 10**9])
def test_a_budget_that_is_no_greater_is_refused(tmp_path: Path, trials: int) -> None:
    folder = RunFolder(tmp_path / "s")
    open_study(make_setup(n_iters=6), folder)
    with folder.locked(), pytest.raises(ConfigError, match="while it runs it can only get more"):
        steering.give_trials(folder, trials)


@pytest.mark.parametrize("deed", [steering.pause, steering.stop, steering.go_on])
def test_only_a_run_that_goes_on_is_steered(tmp_path: Path, deed: Deed) -> None:
    folder = RunFolder(tmp_path / "s")
    folder.make()
    with pytest.raises(ConfigError, match="no run of it goes on"):
        deed(folder)
    assert not folder.wish.exists()


def test_a_run_that_stops_cannot_be_paused_or_given_more(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    with folder.locked():
        steering.stop(folder)
        assert run_state(folder) == "stopping"
        for deed in (steering.pause, steering.go_on, lambda folder: steering.give_trials(folder, 9)):
            with pytest.raises(ConfigError, match="is stopping"):
                deed(folder)
        steering.stop(folder, now=True)
        steering.stop(folder)
        with pytest.raises(Interrupted, match="at once"):
            StopSignal(None, Wishes(folder, RecordingReporter())).check()


def test_what_a_killed_run_has_left_counts_for_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    folder.make()
    ask(folder, PAUSE)
    StatusReporter(RecordingReporter(), folder).step("drawing", 3, 20)
    assert (run_state(folder), steps_of(folder)) == ("", [])
    with folder.locked():
        assert (run_state(folder), steps_of(folder)) == ("running", [])
        StatusReporter(RecordingReporter(), folder).step("drawing", 3, 20)
        assert steps_of(folder) == [{"worker": "", "text": "drawing", "done": 3, "total": 20}]
    assert not folder.wish.exists()
    assert not folder.status.exists()


def test_a_wish_that_cannot_be_written_is_an_error_and_a_status_is_not(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    with folder.locked():
        for path in (folder.wish, folder.status):
            path.mkdir()
        with pytest.raises(StorageError, match="cannot be asked to pause"):
            steering.pause(folder)
        StatusReporter(RecordingReporter(), folder).step("drawing", 3, 20)


def test_each_worker_has_a_step_of_its_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    with folder.locked():
        progress = StatusReporter(RecordingReporter(), folder)
        with progress.members(["worker 1", "worker 2"]) as (one, other):
            one("drawing", 3, 20)
            other("merging", 0, 0)
            assert [step["worker"] for step in steps_of(folder)] == ["worker 1", "worker 2"]
            ask(folder, PAUSE)
            one("paused", 0, 0)
            assert run_state(folder) == "pausing"
            other("paused", 0, 0)
            assert run_state(folder) == "paused"


def test_the_final_round_is_told_and_the_search_has_no_stage(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s")
    with folder.locked():
        progress = StatusReporter(RecordingReporter(), folder)
        progress.budget(10, 10)
        assert stage_of(folder) is None
        progress.budget(2, 7, "final round", "trial 4 on fresh seeds")
        assert stage_of(folder) == {"of": "final round", "about": "trial 4 on fresh seeds", "done": 2, "total": 7}
        progress.budget(10, 20)
        assert stage_of(folder) is None
        folder.status.write_text('{"stage": {"of": ["x"], "done": -3, "total": 1e9}}')
        assert stage_of(folder) == {"of": "['x']", "about": "", "done": 0, "total": 0}
    assert stage_of(folder) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"wish": 3, "steps": 3}', '{"steps": [3, {"done": "x"}]}', "\0", "9" * 9999]
)
def test_rubbish_asks_for_nothing(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path / "s")
    with folder.locked():
        folder.wish.write_text(text)
        folder.status.write_text(text)
        assert run_state(folder) == "running"
        assert all(step["done"] == 0 for step in steps_of(folder))
        assert Wishes(folder, RecordingReporter()).wish == GO_ON


def test_the_command_line_steers_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "runs" / "s")
    open_study(make_setup(n_iters=6), folder)
    runs = ["--runs", str(tmp_path / "runs")]
    with folder.locked():
        assert main(["pause", "s", *runs]) == main(["resume", "s", *runs]) == 0
        assert main(["resume", "s", "n_iters=7", *runs]) == 0
        assert main(["stop", "s", "--now", *runs]) == 0
        assert folder.wish.read_text() == f'{{"wish": "{STOP_NOW}"}}'
    said = capsys.readouterr().out
    for words in ("pauses at its next step", "is no longer paused", "to 11 trials in all", "stops at its next step"):
        assert words in said
    assert main(["stop", "s", *runs]) == 2
    assert "no run of it goes on" in capsys.readouterr().err
