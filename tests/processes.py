"""Processes that need not import everything again: forked from the tests' own, as it was before the first test.

Signals, pipes and exit codes are real. What is imported, and how the interpreter begins, only ``sys.executable`` shows.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """One thread and no network, for every process that a test starts."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Process:
    """A function in a process of its own, with what tests use of ``subprocess.Popen``.

    Args:
        function: of a module, so that the process finds it.
        arguments: of it.
        folder: where it works.
        variables: its environment.
        stdin: a pipe, nothing, or the number of a file, as for ``subprocess.Popen``.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        (read, write), (out, said), (errors, warned), (state, told) = (os.pipe() for _ in range(4))
        if stdin >= 0:
            os.close(read)
            read = os.dup(stdin)
        place, given = str(folder or Path.cwd()), dict(environment() if variables is None else variables)
        request = pickle.dumps((function, arguments, place, given))
        theirs = [read, said, warned, told]
        socket.send_fds(template(), [request], theirs)
        for number in theirs:
            os.close(number)
        self.stdin: IO[str] = os.fdopen(write, "w", encoding="utf-8")
        if stdin != subprocess.PIPE:
            self.stdin.close()
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(errors, encoding="utf-8")
        self._state = os.fdopen(state)
        self.pid = int(self._state.readline())
        self._ended = threading.Event()
        self._returncode: int | None = None
        threading.Thread(target=self._watch, daemon=True).start()
        atexit.register(self.kill)  # it does not outlive the tests

    def _watch(self) -> None:
        with self._state:
            self._returncode = int(self._state.readline())
        self._ended.set()

    @property
    def returncode(self) -> int | None:
        """Of a process that has ended; minus the signal if one ended it."""
        return self._returncode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To a process that may have ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """As a power cut does."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        """Until it ends, which is its exit code."""
        assert self._ended.wait(timeout), "it did not end in time"
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What else it says until it ends."""
        self.stdin.close()
        overdue = threading.Timer(timeout, self.kill)
        overdue.start()
        errors: list[str] = []
        reading = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        reading.start()
        said = self.stdout.read()
        reading.join()
        self.wait()
        overdue.cancel()
        return said, errors[0]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.wait()
        self.stdout.close()
        self.stderr.close()


def program(*arguments: str) -> None:
    """``bayes-merger ARGUMENTS``, as a function of a process."""
    from bayes_merger import cli

    sys.argv = ["bayes-merger", *arguments]
    cli.program()


@cache
def template() -> socket.socket:
    """The process that the others are forked from, which this one asks for them; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _serve(theirs)
    theirs.close()
    return ours


def _serve(asked: socket.socket) -> NoReturn:
    """Fork a process for each request, beside which another one stands that tells how it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those end that stand beside
    logging.getLogger().handlers.clear()  # pytest's
    while True:
        request, pipes, _, _ = socket.recv_fds(asked, 1 << 18, 4)
        if not request:
            os._exit(0)
        importlib.import_module("tests.preloaded")
        if os.fork() == 0:
            asked.close()
            _stand_beside(request, pipes)
        for number in pipes:
            os.close(number)


def _stand_beside(request: bytes, pipes: list[int]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = pipes.pop()
    process = multiprocessing.get_context("fork").Process(target=_run, args=(request, pipes))
    process.start()
    for number in pipes:
        os.close(number)
    os.write(told, f"{process.pid}\n".encode())
    process.join()
    os.write(told, f"{process.exitcode}\n".encode())
    os._exit(0)


def _run(request: bytes, pipes: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    for number, pipe in enumerate(pipes):
        os.dup2(pipe, number)
        os.close(pipe)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout, sys.stderr = (_written(number) for number in (1, 2))  # pytest's may stand for files
    function, arguments, folder, variables = pickle.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    if (torch := sys.modules.get("torch")) and (threads := variables.get("OMP_NUM_THREADS")):
        torch.set_num_threads(int(threads))  # it read the variable when it was imported
    function(*arguments)


def _written(number: int) -> io.TextIOWrapper:
    file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding="utf-8", line_buffering=number == 2)
