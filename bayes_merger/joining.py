"""Work on a study that others draw too: what a worker does, on this machine or another."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bayes_merger import compose
from bayes_merger.compose.changes import is_file
from bayes_merger.config import FILES, LOCAL
from bayes_merger.errors import CheckpointError, ConfigError, Missing
from bayes_merger.run.attributes import VERSIONS
from bayes_merger.run.checks import check_no_person
from bayes_merger.run.fingerprint import fingerprint
from bayes_merger.run.folder import RunFolder, find_study, load
from bayes_merger.run.progress import ProgressReporter, Reporting, StopSignal, plain_reporting
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.versions import about_samplers, check_versions, versions_here
from bayes_merger.run.wishes import Wishes
from bayes_merger.search.study.alive import at_work
from bayes_merger.search.study.storage import backend, put_to_rest
from bayes_merger.search.study.study import FINGERPRINT
from bayes_merger.setups import drawn_here, of_a_run, stored_setup


def work(
    name: str,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    address: str = "",
    worker: str = "",
    reporting: Reporting = plain_reporting,
    says_stop: bool = True,
) -> RunFolder:
    """Draw trials of a study that others work on too, until its budget is used up.

    Args:
        name: of the study.
        overrides: what differs on this machine, like ``model_a=/mnt/A.safetensors``; see ``LOCAL``.
        runs: the folder of all studies.
        address: of the database that has it, if it is not in its folder.
        worker: what people call this worker; the host's name by default.
        reporting: opens the progress reporter, given the log file.
        says_stop: whether this process reports a request to stop; a parent process does so itself.

    Raises:
        ConfigError: no such study, or a worker that would draw something else.
        CheckpointError: a model file that cannot be used.
        Interrupted: the user asked to stop.
    """
    from bayes_merger.run import loop
    from bayes_merger.run.drawing import evaluator_of

    folder = find_study(Path(runs), name, address)
    stored = of_a_run(load(folder, whole=False))
    settings, setup = _stored_for_worker(folder, stored, overrides)
    versions, here = stored.get(VERSIONS) or {}, versions_here(setup.config.generator.device)
    about_versions = [*check_versions(versions, here), about_samplers(versions, here, drawn_here(setup))]
    folder.make()
    with reporting(folder.log) as progress:
        for line in filter(None, about_versions):
            progress.note(line)
        progress.step("hashing the models")
        marks = fingerprint(setup, settings["scorers"], stored[FINGERPRINT])
        study = loop.join_study(setup, folder, marks, waiting=progress.note)
        folder.point()
        total = setup.trials
        if says_stop and (warning := loop.crowded(at_work(study) + 1, total)):
            progress.note(warning)
        try:
            with (
                StopSignal(progress if says_stop else None, Wishes(folder, progress, study, says=says_stop)) as stop,
                evaluator_of(setup, study, progress, stop, folder) as evaluator,
            ):
                name = worker or socket.gethostname()
                with _standing_by(setup, folder, marks, progress) if says_stop else nullcontext():
                    loop.search(setup, study, evaluator, folder, progress, stop, name=name, taking=True)
        finally:
            setup.close()
            put_to_rest(backend(study))
    return folder


def _stored_for_worker(
    folder: RunFolder, stored: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], RunSetup]:
    """The settings and the setup of a study on this machine, for one of several workers.

    Raises:
        ConfigError: a setting that is the study's, or a scorer that asks a person.
        CheckpointError: a model file that is not there.
    """
    for override in overrides:
        key, _, value = compose.in_full(override).partition("=")
        is_place = any(compose.is_of(key, file) for file in FILES) and is_file(value)
        if not is_place and not any(compose.is_of(key, local) for local in LOCAL):
            raise ConfigError(f"{key}: is the study's, not the worker's; only {', '.join(LOCAL)} can differ")
    try:
        settings, setup = stored_setup(folder, stored, overrides)
    except CheckpointError as error:
        if isinstance(error, Missing):  # which says so
            raise
        raise CheckpointError(f"{error}; say where it is on this machine like  model_a=FILE") from error
    check_no_person(setup.scorers, "rate in  bayes-merger run  or  resume")
    return settings, setup


@contextmanager
def _standing_by(
    setup: RunSetup, folder: RunFolder, marks: Mapping[str, Any], progress: ProgressReporter
) -> Iterator[None]:
    """Be the study's proposer beside this block whenever no other process is, with a study and a sampler of its own."""
    from bayes_merger.run import loop
    from bayes_merger.run.workers import proposing
    from bayes_merger.search.study.proposer import STANDBY

    study = loop.join_study(setup, folder, marks)
    try:
        with proposing(setup, study, progress, STANDBY):
            yield
    finally:
        put_to_rest(backend(study))
