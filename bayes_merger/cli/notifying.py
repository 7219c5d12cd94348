"""Who is told of a run besides the terminal: the address of ``notify.webhook=``, which is the machine's business."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bayes_merger.cli.arguments import split_off
from bayes_merger.cli.terminal import watching
from bayes_merger.run.notify import check_address, telling
from bayes_merger.run.progress import ProgressReporter, Reporting

WEBHOOK = "BAYES_MERGER_WEBHOOK"
"""Environment variable: the address, for those who would not have it in a command line."""


def notified(overrides: Sequence[str]) -> tuple[Reporting, list[str]]:
    """What shows a run's progress, and the settings without those of notifications: no study keeps the address.

    Raises:
        ConfigError: it is no address.
    """
    given, rest = split_off("notify.webhook", overrides)
    address = given or os.environ.get(WEBHOOK, "")
    if address in ("", "null"):
        return watching, rest
    check_address(address)

    @contextmanager
    def reporting(log: Path) -> Iterator[ProgressReporter]:
        with watching(log) as progress, telling(progress, log.parent.name, address) as told:
            yield told

    return reporting, rest
