"""Where a person rates while a run goes on: the scoring page, in a process beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from bayes_merger.cli.arguments import split_off
from bayes_merger.errors import ConfigError
from bayes_merger.processes import APART
from bayes_merger.run.rating.desk import no_seat

if TYPE_CHECKING:
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.progress import ProgressReporter
    from bayes_merger.run.rating.desk import Seating


def seated(overrides: Sequence[str]) -> tuple[Seating, list[str]]:
    """The page of a run, and the settings without those of the page: they are the machine's and not the study's."""
    host, rest = split_off("web.host", overrides)
    port, rest = split_off("web.port", rest)
    page, rest = split_off("web.page", rest)
    if port and not port.isdecimal():
        raise ConfigError(f"web.port: '{port}' is no port; give a number like  web.port=8300")

    if page == "off":  # who started the run has the page
        return no_seat, rest

    def seating(folder: RunFolder, progress: ProgressReporter) -> AbstractContextManager[None]:
        return page_beside(folder, progress.note, host or "127.0.0.1", int(port) if port else None)

    return seating, rest


@contextmanager
def page_beside(folder: RunFolder, note: Callable[[str], object], host: str, port: int | None) -> Iterator[None]:
    """The page in a process of its own, so that nothing makes it slow; it ends with the block.

    Args:
        folder: the study's.
        note: told when the page has ended before the block.
        host: where the page listens.
        port: likewise; None: a usual one that is free.
    """
    from bayes_merger.run.folder import STORAGE
    from bayes_merger.web.guard import HANDED, kept_token
    from bayes_merger.web.serving import links, listen

    token = kept_token()
    with listen(host, port) as listening:
        port = listening.getsockname()[1]
        told = links(listening, f"/rate/{folder.name}", token)
    command = [sys.executable, "-m", "bayes_merger", "rate", folder.name, "--runs", str(folder.path.parent)]
    where = str(folder.where)
    secrets = {HANDED: token} | ({STORAGE: where} if "://" in where else {})  # not for the eyes of `ps`
    child = subprocess.Popen(
        [*command, "--host", host, "--port", str(port), "--child"],
        env={**os.environ, **secrets},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **APART,  # Ctrl-C is the run's
    )
    ending = threading.Event()

    def watch() -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        for line in told if child.stdout.readline() else ():  # it is there now
            print(f"rate: {line}", flush=True)  # not into the log, which people hand on: the link is the key
        said = child.stderr.read()
        child.wait()
        if not ending.is_set():
            why = said.strip().rpartition("\n")[2].removeprefix("error: ") or f"exit code {child.returncode}"
            note(f"the page has ended ({why}); rate with  bayes-merger rate {folder.typed}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ending.set()
        child.terminate()
        watcher.join()
