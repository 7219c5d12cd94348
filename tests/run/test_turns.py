"""Runs that are asked to wait their turn draw one after another on a device, in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.errors import Interrupted
from bayes_merger.run.control import PAUSE, STOP, ask, read_file, replace_file, run_state, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.turns import collide, device_of, wait_for_turn
from bayes_merger.testing.progress import RecordingReporter


class Waiting(RecordingReporter):
    """Does something whenever it is told that the run waits."""

    def __init__(self, deed: Callable[[], object]) -> None:
        super().__init__()
        self._deed, self.waited = deed, 0

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        self.waited += 1
        self._deed()


@pytest.fixture
def mine(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "mine")


@pytest.fixture
def other(tmp_path: Path) -> RunFolder:
    """A run that has only just begun, so that nobody knows where it draws."""
    return RunFolder(tmp_path / "other")


def test_a_run_waits_until_another_one_has_ended(mine: RunFolder, other: RunFolder) -> None:
    with mine.locked(), ExitStack() as held:
        held.enter_context(other.locked())
        progress = Waiting(held.close)
        wait_for_turn(mine, "cuda:0", progress)
        assert (progress.waited, read_file(mine.ticket)) == (1, {})
    assert not mine.ticket.exists()
    assert progress.lines == ["waiting for study other, which draws on the same device"]


@pytest.mark.parametrize(
    ("ticket", "waits"),
    [({"since": 1.0, "device": "cuda:0"}, True), ({"since": 1e12, "device": "cuda:0"}, False),
     ({"since": 1.0, "device": "cuda:1"}, False), ({"since": "now", "device": "cuda:1"}, True), ({}, True)],
)  # fmt: skip
def test_who_came_first_draws_first(ticket: dict[str, object], waits: bool, mine: RunFolder, other: RunFolder) -> None:
    with mine.locked(), ExitStack() as held:
        held.enter_context(other.locked())
        replace_file(other.ticket, ticket)
        progress = Waiting(held.close)
        wait_for_turn(mine, "cuda:0", progress)
        assert bool(progress.waited) is waits


def test_a_ticket_of_a_run_that_was_killed_counts_for_nothing(mine: RunFolder, other: RunFolder) -> None:
    for folder in (mine, other):
        folder.make()
    replace_file(other.ticket, {"since": 1.0, "device": "cuda:0"})
    with mine.locked():
        wait_for_turn(mine, "cuda:0", progress := Waiting(lambda: None))
        assert progress.waited == 0
        with other.locked():
            assert not other.ticket.exists()


def test_a_run_that_waits_may_be_stopped(mine: RunFolder, other: RunFolder) -> None:
    with mine.locked(), other.locked():
        wishes = iter([PAUSE, STOP])
        progress = Waiting(lambda: ask(mine, next(wishes)))
        with pytest.raises(Interrupted, match="stopped before it began"):
            wait_for_turn(mine, "auto", progress)
        assert progress.waited == 2
    assert not mine.ticket.exists()


def test_a_run_that_waits_and_is_paused_is_paused(mine: RunFolder, other: RunFolder) -> None:
    said: list[str] = []
    with mine.locked(), other.locked():

        def pause_and_stop() -> None:
            said.append(run_state(mine))
            ask(mine, PAUSE if len(said) == 1 else STOP)

        with pytest.raises(Interrupted):
            wait_for_turn(mine, "auto", Waiting(pause_and_stop))
    assert said == ["waiting", "paused"]


def test_a_run_that_has_no_study_yet_is_stopped_by_its_whole_name(
    mine: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(mine.path.parent)]
    with mine.locked():
        assert main(["stop", "mine", *runs]) == 0
        assert wish_of(mine) == STOP
        assert main(["stop", "min", *runs]) == 2
    assert main(["stop", "mine", *runs]) == 2
    said = capsys.readouterr()
    assert said.out == "study mine ends before it has begun\n"
    assert said.err.splitlines()[1].startswith("error: no study 'mine'; ")


@pytest.mark.parametrize("swept", [[], ["-m", "seed=1,2"]])
def test_studies_of_a_sweep_wait_their_turn_too(
    swept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *swept, "--queue", "model_a=a"]) == 2
    assert "'model_b' has no value" in capsys.readouterr().err


def test_what_draws_elsewhere_waits_for_nobody(mine: RunFolder, other: RunFolder) -> None:
    with mine.locked(), other.locked():
        wait_for_turn(mine, "", progress := Waiting(lambda: None))
    assert progress.lines == []


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [("auto", "auto", True), ("auto", "cpu", True), ("cuda", "cuda:1", True), ("cuda:0", "cuda:1", False),
     ("cuda:1", "cuda:1", True), ("cpu", "cuda", False), ("", "auto", False),
     ("http://127.0.0.1:7860", "http://127.0.0.1:7860", True), ("http://127.0.0.1:7860", "http://10.0.0.2:7860", False),
     ("http://127.0.0.1:7860", "cpu", False)],
)  # fmt: skip
def test_which_devices_are_one(one: str, other: str, found: bool) -> None:
    assert collide(one, other) is collide(other, one) is found


def test_where_a_run_draws() -> None:
    assert device_of({}) == "auto"
    assert device_of({"generator": {"program": "diffusers", "device": "cuda:1"}}) == "cuda:1"
    assert device_of({"generator": {"program": "webui", "address": "http://a:1", "device": "auto"}}) == "http://a:1"
    assert device_of({"generator": {"program": "outside", "device": "auto"}}) == ""
