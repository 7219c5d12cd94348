"""A PostgreSQL server of our own, thrown away afterwards: Debian's package, on loopback, with a password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "merger", "s3cret-pass"


def binaries() -> Path | None:
    """Where ``initdb`` and ``postgres`` lie; Debian keeps them off the path."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def server(settings: str = "-c fsync=off") -> Iterator[str]:
    """A running server with these settings besides its defaults; yields the address of an empty database in it."""
    programs = binaries()
    if programs is None:
        reason = "PostgreSQL IS NOT TESTED: it is not installed here (apt-get install postgresql)"
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="bayes-merger-postgres-"))
    password = folder / "password"
    password.write_text(PASSWORD)
    if os.getuid() == 0:  # the server refuses to run as root
        for path in (folder, password):
            shutil.chown(path, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    options = f"-h 127.0.0.1 -p {port} -k {folder} {settings}"
    try:
        _run(
            programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8",
            "--no-sync",
        )  # fmt: skip
        _run(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        if data.exists():
            _run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: object, check: bool = True) -> None:
    words = [str(word) for word in command]
    if os.getuid() == 0:
        words = ["runuser", "-u", "postgres", "--", *words]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/", check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}")
