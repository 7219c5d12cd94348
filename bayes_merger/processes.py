"""Child processes on every system."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

APART: dict[str, Any] = (
    {"start_new_session": True}
    if os.name == "posix"
    else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
)
"""What keeps Ctrl-C in this terminal from a child that is started with it."""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a child that was started ``APART``, and what it has started itself where the system knows that."""
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):  # it may have its reasons
        process.wait(PATIENCE)


PATIENCE = 2.0
"""Seconds that a child gets to end."""
