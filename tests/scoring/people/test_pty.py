"""The dialogue in a real terminal, with people who pull the plug."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bayes_merger.scoring import Ledger

pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
ROOT = Path(__file__).parents[3]


class Terminal:
    """A process that believes a person sits in front of it."""

    def __init__(self, ledger: Path, *viewer: str, **environ: str) -> None:
        self.master, slave = pty.openpty()
        keep = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "SYSTEMROOT") if key in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.scoring.rate_in_terminal", str(ledger), *viewer],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**keep, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environ},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} never came; so far: {self.seen[-2000:]!r}"
            if select.select([self.master], [], [], 1)[0] and not self.read():
                assert text in self.seen, f"ended without {text!r}: {self.seen[-2000:]!r}"
        self.seen = self.seen.partition(text)[2]

    def until_it_waits(self) -> None:
        """Until the process sleeps in a system call; after a prompt that is the one that reads the answer."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.001)

    def read(self) -> bool:
        try:
            got = os.read(self.master, 65536)
        except OSError:  # how Linux says that the other side is gone
            return False
        self.seen += got.decode(errors="replace")
        return bool(got)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def rate(self, number: int, answer: str) -> None:
        self.until(f"image {number}/4 portrait")
        self.until("> ")
        self.type(f"{answer}\n")

    def end(self) -> int:
        while self.read():
            pass
        os.close(self.master)
        return self.process.wait(10)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background has it ignored, and children inherit that


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ratings.jsonl"


def ratings(ledger: Path) -> list[float | None]:
    return [Ledger(ledger).rating("c1", "portrait", n) for n in range(4)]


def test_four_answers_in_a_terminal_without_display_or_viewer(ledger: Path) -> None:
    terminal = Terminal(ledger, COLORTERM="truecolor")
    terminal.until("\x1b[38;2;")  # the picture, in characters
    for number, answer in enumerate(("7", "7,5", "0", "10"), start=1):
        terminal.rate(number, answer)
    terminal.until("SCORES [7.0, 7.5, 0.0, 10.0]")
    assert terminal.end() == 0


def test_a_viewer_that_is_not_there_does_not_end_the_run(ledger: Path) -> None:
    terminal = Terminal(ledger, "no-such-viewer {}")
    terminal.until("no viewer: no-such-viewer")
    for number in range(1, 5):
        terminal.rate(number, "5")
    terminal.until("SCORES")
    assert terminal.end() == 0


def test_a_desktop_whose_opener_is_missing_does_not_end_the_run(ledger: Path, tmp_path: Path) -> None:
    terminal = Terminal(ledger, DISPLAY=":99", PATH=str(tmp_path))
    for number in range(1, 5):
        terminal.rate(number, "5")
    terminal.until("SCORES")
    assert terminal.end() == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("given", [0, 1, 2, 3])
def test_kill_9_loses_no_rating_and_nothing_is_asked_twice(ledger: Path, given: int) -> None:
    terminal = Terminal(ledger)
    for number in range(1, given + 1):
        terminal.rate(number, str(number))
    terminal.until(f"image {given + 1}/4")
    terminal.type("9")  # half an answer: typed, not entered
    terminal.process.kill()
    assert terminal.end() == -signal.SIGKILL
    assert ratings(ledger) == [float(n) if n <= given else None for n in range(1, 5)]

    back = Terminal(ledger)
    for number in range(given + 1, 5):
        back.rate(number, str(number))
    back.until("SCORES [1.0, 2.0, 3.0, 4.0]")
    assert back.end() == 0


def test_ctrl_c_pauses(ledger: Path) -> None:
    terminal = Terminal(ledger)
    terminal.rate(1, "6")
    terminal.until("image 2/4")
    terminal.until("> ")
    terminal.until_it_waits()  # a signal in the instant between prompt and read would wait for the next key
    terminal.type("\x03")
    terminal.until("PAUSED interrupted")
    assert terminal.end() == 3
    assert ratings(ledger) == [6, None, None, None]


def test_ctrl_d_pauses(ledger: Path) -> None:
    terminal = Terminal(ledger)
    terminal.rate(1, "6")
    terminal.until("image 2/4")
    terminal.until("> ")
    terminal.type("\x04")
    terminal.until("PAUSED nobody")
    assert terminal.end() == 3
    assert ratings(ledger) == [6, None, None, None]


def test_a_terminal_that_is_closed_keeps_what_was_rated(ledger: Path) -> None:
    terminal = Terminal(ledger)
    terminal.rate(1, "6")
    terminal.until("image 2/4")
    os.close(terminal.master)
    assert terminal.process.wait(10) != 0
    assert ratings(ledger) == [6, None, None, None]


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, None], ids=["empty", "closed"])
def test_a_service_without_input_pauses(ledger: Path, stdin: int | None) -> None:
    command = [sys.executable, "-m", "tests.scoring.rate_in_terminal", str(ledger)]
    if stdin is None:
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "PAUSED nobody is there to rate" in done.stdout
    assert "\x1b[" not in done.stdout


def test_answers_may_come_from_a_pipe(ledger: Path) -> None:
    command = [sys.executable, "-m", "tests.scoring.rate_in_terminal", str(ledger)]
    done = subprocess.run(command, input="1\n2\n3\n4\n", capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "SCORES [1.0, 2.0, 3.0, 4.0]" in done.stdout
