"""``worker``: join a study that runs already, from this machine or another."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bayes_merger.cli.compose import in_full
from bayes_merger.cli.run import stored_run
from bayes_merger.cli.show import Parser
from bayes_merger.cli.terminal import watching
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.run.folder import STORAGE, RunFolder, find_study
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.setup import check_no_person, fingerprint

LOCAL = ("model_a", "model_b", "model_c", "models", "recipe.models", "generator.device", "generator.max_batch",
         "generator.config", "wildcards")  # fmt: skip

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
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what is different on this machine")
    parser.add_argument("--storage", default="", help="the address of the study's database")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--report-as", default="", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    for override in options.overrides:
        key = in_full(override).partition("=")[0]
        if key not in LOCAL and not key.startswith(("models.", "recipe.models.")):
            raise ConfigError(f"{key}: is the study's, not the worker's; only {', '.join(LOCAL)} can differ")
    folder = find_study(Path(options.runs), options.name, options.storage)
    try:
        settings, parts = stored_run(folder, options.overrides)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; where it lies on this machine is said like  model_a=FILE") from error
    check_no_person(parts.scorers, "rate in  bayes-merger run  or  resume")
    folder.path.mkdir(parents=True, exist_ok=True)
    with watching_for(options.report_as, folder) as (watcher, stop_watcher):
        from bayes_merger.run import loop
        from bayes_merger.run.evaluator import PipelineEvaluator

        watcher.step("hashing the models")
        study = loop.join_study(parts, folder, fingerprint(parts, settings["scorers"]))
        folder.point()
        with StopSignal(stop_watcher) as stop:
            bench = PipelineEvaluator.load(parts, watcher, stop)
            loop.search(parts, study, bench, folder, watcher, stop, name=options.report_as or socket.gethostname())
    if not options.report_as:
        print(f"study {folder.name}: nothing left to draw")


@contextmanager
def watching_for(report_as: str, folder: RunFolder) -> Iterator[tuple[ProgressReporter, ProgressReporter | None]]:
    """The watcher of a worker, and who is told that somebody asked to stop: a parent knows it already."""
    if not report_as:
        with watching(folder.log) as watcher:
            yield watcher, watcher
        return
    from bayes_merger.run.workers import PipeReporter, leave_with_parent, reports_to_parent

    leave_with_parent()
    yield PipeReporter(reports_to_parent()), None
