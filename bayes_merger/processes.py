"""Child processes on every system."""

from __future__ import annotations

import os
import subprocess
from typing import Any

APART: dict[str, Any] = (
    {"start_new_session": True}
    if os.name == "posix"
    else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
)
"""What keeps Ctrl-C in this terminal from a child that is started with it."""
