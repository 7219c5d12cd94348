"""Runs that a page has started: processes of the same command line, in sessions of their own.

They know nothing of the server and outlive it. What they print goes into a file of the study's folder, where the server
finds it again; until a study exists, only the server that began it knows of it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from bayes_merger.errors import ConfigError, Interrupted, Paused, one_line
from bayes_merger.processes import APART
from bayes_merger.run.folder import STORAGE, RunFolder

LONGEST = 64 << 10
"""Bytes of what a run has printed that are shown."""


class Children:
    """The processes that one server has started."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._failed: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(self, folder: RunFolder, arguments: Sequence[str]) -> None:
        """Start a command that works on a study.

        Args:
            folder: of the study, which need not be there yet.
            arguments: of the command line; no shell reads them.

        Raises:
            ConfigError: one has been started, and still runs.
        """
        with self._lock:
            self.check_ended(folder)
            folder.make()
            self._failed.pop(folder.name, None)
            where = str(folder.where) if folder.exists() else ""
            secret = {STORAGE: where} if "://" in where else {}
            with folder.output.open("ab") as output:
                output.write(f"$ bayes-merger {shlex.join(arguments)}\n".encode())
                output.flush()
                child = subprocess.Popen(
                    [sys.executable, "-m", "bayes_merger", *arguments],
                    env={**os.environ, **secret, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    **APART,
                )
            self._running[folder.name] = child
        threading.Thread(target=self._wait, args=[folder, child], daemon=True).start()

    def check_ended(self, folder: RunFolder) -> None:
        """Whether nothing runs that was started here for a study.

        Raises:
            ConfigError: it does.
        """
        if self.is_starting(folder):
            raise ConfigError(f"study '{folder.name}': is being started already, or has not quite ended")

    def knows(self, name: str) -> bool:
        """Whether something was started for a study of this name."""
        return name in self._running

    def is_starting(self, folder: RunFolder) -> bool:
        """Whether a process that was started here runs, whatever it does."""
        child = self._running.get(folder.name)
        return child is not None and child.poll() is None

    def failure(self, folder: RunFolder) -> str:
        """Why the last process that was started for it has failed, in a line; empty if it has not."""
        return self._failed.get(folder.name, "")

    def _wait(self, folder: RunFolder, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        if code not in (0, Interrupted.exit_code, Paused.exit_code):
            last = printed(folder).strip().rpartition("\n")[2].removeprefix("error: ")
            self._failed[folder.name] = one_line(last, longest=1000) or f"exit code {code}"
        if code and not folder.exists():  # nothing was begun, so nothing stays
            with suppress(OSError):
                folder.output.unlink()
                folder.path.rmdir()


def printed(folder: RunFolder) -> str:
    """The end of what the runs of a study have printed that a page has started; empty if none was."""
    try:
        with folder.output.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
