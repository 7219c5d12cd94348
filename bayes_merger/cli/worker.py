"""``worker``: join a study that runs already, from this machine or another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bayes_merger.cli.arguments import Parser
from bayes_merger.cli.terminal import watching
from bayes_merger.config import LOCAL
from bayes_merger.run.folder import STORAGE
from bayes_merger.run.progress import ProgressReporter, Reporting

DESCRIPTION = f"""\
Join a study and draw trials until its budget is used up; Ctrl-C stops after the trial.

  bayes-merger worker NAME                                              on the machine of  bayes-merger run
  bayes-merger worker NAME --storage postgresql://user@host/database    on another one

The settings are the study's. The model files must be the same, wherever they lie here:
  bayes-merger worker NAME --storage ... model_a=/mnt/A.safetensors model_b=/mnt/B.safetensors
What may differ on this machine: {", ".join(LOCAL)}.
A password comes from PGPASSWORD, ~/.pgpass or an address in {STORAGE}, where `ps` does not show it.
Pictures are kept in this machine's runs/NAME. The final round is that of  bayes-merger run  or  resume.
"""


def worker(arguments: Sequence[str]) -> None:
    """Work on a study.

    Raises:
        ConfigError: no such study, or a worker that would draw something else.
        CheckpointError: a model file that cannot be used.
    """
    parser = Parser(
        prog="bayes-merger worker", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the study")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="what is different on this machine"
    )
    parser.add_argument("--storage", default="", help="the address of the study's database")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--report-as", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from bayes_merger import joining

    reporting = reporting_to_parent() if options.report_as else watching
    folder = joining.work(
        options.name,
        options.overrides,
        runs=options.runs,
        address=options.storage,
        worker=options.report_as,
        reporting=reporting,
        says_stop=not options.report_as,
    )
    if not options.report_as:
        print(f"study {folder.name}: nothing left to draw")


def reporting_to_parent() -> Reporting:
    """Reports to the process that started this worker, which shows and logs it."""
    from bayes_merger.run.workers import PipeReporter, leave_with_parent, reports_to_parent

    @contextmanager
    def reporting(log: Path) -> Iterator[ProgressReporter]:
        leave_with_parent()
        yield PipeReporter(reports_to_parent())

    return reporting
