"""Processes that need not import everything again: forked from one that has, by Python's own fork server.

Signals, pipes and exit codes are real. What is imported, and how the interpreter begins, only ``sys.executable`` shows.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tests.preloaded"])


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
        ours: list[Connection[Any, Any]] = []
        theirs: list[Connection[Any, Any]] = []
        for reads in (False, True, True):
            reader, writer = _FORKED.Pipe(duplex=False)
            ours.append(reader if reads else writer)
            theirs.append(writer if reads else reader)
        if stdin >= 0:
            theirs[0].close()
            theirs[0] = Connection(os.dup(stdin), writable=False)
        self._process = _FORKED.Process(
            target=_run,
            args=(theirs, str(folder or Path.cwd()), dict(environment() if variables is None else variables)),
            kwargs={"function": function, "arguments": arguments},
            daemon=True,  # it does not outlive the tests
        )
        with contextlib.chdir(ROOT):  # where the server, which the first process starts, finds what it imports
            self._process.start()
        for connection in theirs:
            connection.close()
        self.stdin = _file(ours[0], "w")
        if stdin != subprocess.PIPE:
            self.stdin.close()
        self.stdout = _file(ours[1], "r")
        self.stderr = _file(ours[2], "r")
        assert self._process.pid
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Of a process that has ended; minus the signal if one ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To a process that may have ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As a power cut does."""
        self._process.kill()

    def wait(self, timeout: float = 300) -> int:
        """Until it ends, which is its exit code."""
        self._process.join(timeout)
        assert self.returncode is not None, "it did not end in time"
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


def _written(number: int) -> io.TextIOWrapper:
    file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding="utf-8", line_buffering=number == 2)


def _file(connection: Connection[Any, Any], mode: str) -> IO[str]:
    with connection:
        return os.fdopen(os.dup(connection.fileno()), mode, encoding="utf-8")


def _run(
    pipes: list[Connection[Any, Any]],
    folder: str,
    variables: Mapping[str, str],
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for number, pipe in enumerate(pipes):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout, sys.stderr = (_written(number) for number in (1, 2))  # the server's may stand for files
    function(*arguments)
