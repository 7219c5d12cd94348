"""Begin a study, go on with it, fork it: what the command line, a page, a notebook and a launcher call.

Settings come in as plain data, composed by :mod:`bayes_merger.compose`; progress is reported to a
:class:`~bayes_merger.run.progress.ProgressReporter`. Nothing is printed here. For example::

    from bayes_merger import session
    from bayes_merger.compose import compose_run

    folder = session.begin(compose_run(["model_a=A.safetensors", "model_b=B.safetensors", "payloads=portrait"]))
    session.resume(folder.name, ["n_iters=100"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from bayes_merger import compose
from bayes_merger.compose.changes import check_changeable
from bayes_merger.course import carry_on
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.merging.models.opening import references
from bayes_merger.paths import user_path
from bayes_merger.run.anchors import start_design
from bayes_merger.run.attributes import CONFIG, FINAL, MOST, PAYLOADS, RECIPE, VERSIONS, WISH
from bayes_merger.run.budget import about_few_pictures, budget_line, settled, with_given
from bayes_merger.run.control import GO_ON
from bayes_merger.run.effect.narrowing import narrowed
from bayes_merger.run.final import check_fresh_words, with_fresh_words
from bayes_merger.run.fingerprint import fingerprint
from bayes_merger.run.folder import RunFolder, check_name, find_study, is_begun, load
from bayes_merger.run.heritage import check_compares, heritage_of, taken_over, with_pictures
from bayes_merger.run.idle import SEARCH_ALL, about_idle, without_idle
from bayes_merger.run.new_folder import new_folder
from bayes_merger.run.progress import ProgressReporter, Reporting, plain_note, plain_reporting
from bayes_merger.run.rating.desk import Seating, no_seat
from bayes_merger.run.rebasin import orders_kept
from bayes_merger.run.record import left_out
from bayes_merger.run.setup import RunSetup, check_models, check_space
from bayes_merger.run.status import reporting_status
from bayes_merger.run.sweep import sweep
from bayes_merger.run.turns import device_of, wait_for_turn
from bayes_merger.run.versions import about_upgrade, remember_versions, versions_here
from bayes_merger.run.wishes import store_wish
from bayes_merger.search.space.from_effect import about_effect
from bayes_merger.search.study.stopping import PATIENT_FROM
from bayes_merger.search.study.storage import file_at, is_address, open_storage, redacted
from bayes_merger.search.study.study import FINGERPRINT, finished
from bayes_merger.setups import drawn_here, make_setup, of_a_run, stored_setup, telling_of_moves


def begin(
    settings: Mapping[str, Any],
    *,
    named: bool = True,
    reporting: Reporting = plain_reporting,
    seating: Seating = no_seat,
    queued: bool = False,
    note: Callable[[str], object] = plain_note,
) -> RunFolder:
    """Start a new study and run it to its end.

    Args:
        settings: of the run, from :func:`bayes_merger.compose.compose_run`.
        named: the user chose the study's name; otherwise a number is added to a name that is in use.
        reporting: opens the progress reporter, given the log file.
        seating: opens the place where a person rates while the study runs.
        queued: wait for the other runs in the same folder that draw on its device, and for those that wait already.
        note: told what is worth knowing before there is a study, a line at a time.

    Returns:
        The study's folder.

    Raises:
        ConfigError: a setting that makes no sense, or the study exists; nothing was written.
        CheckpointError: a model file that cannot be used; nothing was written.
        Interrupted: the user asked to stop.
        Paused: the person who scores went away.
    """
    settings, address = _take_address(settings)
    config = compose.validate(settings)
    folder = new_folder(config, address, named=named)
    setup = narrowed(make_setup(config, settings, folder))
    settings = {**settings, "space": dict(setup.config.space)}
    start_design(setup)  # whatever is wrong with it is said before the models are read
    check_space(setup, folder)
    about_orders = check_models(setup, note)
    settings |= orders_kept(settings, setup.checkpoints)
    setup = with_fresh_words(without_idle(setup))
    design, about_anchors = start_design(setup)
    settings = {**settled(settings, setup), "name": folder.name}
    with _in_turn(folder, settings, reporting, queued=queued) as progress:
        progress.note(f"study {folder.name} in {folder.path}")
        if line := about_idle(setup.space):
            progress.note(f"{line}; {SEARCH_ALL}")
        about_frozen = about_effect(setup.config.space, setup.space.blocks)
        for line in filter(
            None, (*about_orders, about_frozen, *about_anchors, budget_line(setup), about_few_pictures(setup))
        ):
            progress.note(line)
        carry_on(setup, new_study(setup, settings, folder, progress, design), folder, progress, seating)
    return folder


def resume(
    name: str,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    address: str = "",
    reporting: Reporting = plain_reporting,
    seating: Seating = no_seat,
    queued: bool = False,
) -> RunFolder:
    """Go on with a study, as if it had never been interrupted; or with more trials or time.

    Args:
        name: of the study.
        overrides: settings that change, like ``n_iters=100``; see ``CHANGEABLE``.
        runs: the folder of all studies.
        address: of the database that has it, if it is not in its folder.
        reporting: opens the progress reporter, given the log file.
        seating: opens the place where a person rates while the study runs.
        queued: wait for the other runs in the same folder that draw on its device, and for those that wait already.

    Raises:
        ConfigError: no such study, or settings that would make its scores incomparable.
        CheckpointError: a model file that cannot be used.
        Interrupted: the user asked to stop.
        Paused: the person who scores went away.
    """
    from bayes_merger.run import loop

    folder = find_study(Path(runs), name, address)
    stored = of_a_run(load(folder))
    check_changeable(name, stored[CONFIG], overrides)
    settings, setup = stored_setup(folder, stored, overrides)
    check_fresh_words(setup, stored, anew=bool(overrides))
    with _in_turn(folder, settings, reporting, queued=queued) as progress:
        progress.step("hashing the models")
        folder.point()
        mark = fingerprint(setup, settings["scorers"], stored[FINGERPRINT])
        study = loop.open_study(setup, folder, mark, {}, waiting=progress.note)
        _forget_what_changes_undo(study, overrides)
        if overrides:
            settings = with_given(settings, stored[CONFIG], study.user_attrs[CONFIG])  # while it waited
            study.set_user_attr(CONFIG, settings)
            loop.write_settings(folder, settings)
        if WISH in study.user_attrs:
            store_wish(study, GO_ON)
        _remember_places(study, setup)
        if line := remember_versions(study, versions_here(setup.config.generator.device), drawn_here(setup)):
            progress.note(line)
        sweep(folder, study)
        done, total = finished(study), setup.trials
        progress.note(f"study {folder.name}: {done} of {total} trials finished, going on")
        if overrides and (line := budget_line(setup)):
            progress.note(line)
        if others := left_out(study):
            progress.note(others)
        carry_on(setup, study, folder, progress, seating)
    return folder


def _forget_what_changes_undo(study: optuna.study.Study, overrides: Sequence[str]) -> None:
    changed = [compose.in_full(override) for override in overrides]
    if any(setting.partition("=")[0] in ENDS for setting in changed):
        study.set_user_attr(PATIENT_FROM, finished(study))
    if any(setting.startswith(("final.images", "final.rescore")) for setting in changed):
        study.set_user_attr(FINAL, None)  # what it has drawn is remembered
    if any(setting.startswith("generator.") for setting in changed):
        study.set_user_attr(MOST, None)  # another device, or a person who knows better


def fork(
    name: str,
    new: str,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    reporting: Reporting = plain_reporting,
    seating: Seating = no_seat,
    queued: bool = False,
) -> RunFolder:
    """Start a new study that takes over the trials of another one which still compare.

    Args:
        name: of the study.
        new: the new one's name.
        overrides: settings that change, like ``optimiser=gp``.
        runs: the folder of all studies.
        reporting: opens the progress reporter, given the log file.
        seating: opens the place where a person rates while the study runs.
        queued: wait for the other runs in the same folder that draw on its device, and for those that wait already.

    Raises:
        ConfigError: no such study, a setting that makes no sense, or scores that would not be comparable.
        CheckpointError: a model file that cannot be used.
        Interrupted: the user asked to stop.
        Paused: the person who scores went away.
    """
    from bayes_merger.search.study.fork import rows_still_needed

    old = find_study(Path(runs), name)
    name = old.name
    study = load(old)
    settings, folder = _place_of_fork(of_a_run(study)[CONFIG], new, overrides, Path(runs))
    redrawn = {o.lstrip("+~").split("=")[0].split(".")[0] for o in overrides} & _OF_PICTURES
    payloads = None if redrawn else tuple(Payload.from_json(p) for p in study.user_attrs[PAYLOADS])
    words = study.user_attrs if payloads and settings["seed"] == study.user_attrs[CONFIG].get("seed") else {}
    with telling_of_moves(settings):
        setup = narrowed(make_setup(compose.validate(settings), settings, folder, payloads, words))
    settings |= {"space": dict(setup.config.space)}
    check_space(setup, folder)
    check_compares(name, new, study, fingerprint(setup, settings["scorers"], study.user_attrs[FINGERPRINT]))
    setup = without_idle(setup).with_standards(study.user_attrs)
    heritage = heritage_of(study, setup.space, name)
    wanted = max(setup.config.init_points, len(heritage.trials))
    rows = rows_still_needed(start_design(setup)[0], heritage.trials, wanted)
    settings = {**settled(settings, setup), "init_points": wanted, "images_budget": None}
    setup = with_fresh_words(replace(setup, config=compose.validate(settings)))
    taken = [with_pictures(trial, old, folder) for trial in heritage.trials]
    with _in_turn(folder, settings, reporting, queued=queued) as progress:
        progress.note(f"study {new} in {folder.path}: {taken_over(name, heritage)}")
        here = versions_here(setup.config.generator.device)
        upgraded = about_upgrade(study.user_attrs.get(VERSIONS) or {}, here, drawn_here(setup))
        about_frozen = about_effect(setup.config.space, setup.space.blocks)
        for line in filter(None, (about_idle(setup.space), about_frozen, upgraded)):
            progress.note(line)
        forked = new_study(setup, settings, folder, progress, rows, taken)
        if fits := study.user_attrs.get(MOST):
            forked.set_user_attr(MOST, fits)
        carry_on(setup, forked, folder, progress, seating)
    return folder


@contextmanager
def _in_turn(
    folder: RunFolder, settings: Mapping[str, Any], reporting: Reporting, *, queued: bool
) -> Iterator[ProgressReporter]:
    """Hold a study and report on it, once it is its turn."""
    with folder.locked(), reporting_status(folder, reporting) as progress:
        if queued:
            wait_for_turn(folder, device_of(settings), progress)
        yield progress


def _place_of_fork(
    stored: Mapping[str, Any], new: str, overrides: Sequence[str], runs: Path
) -> tuple[dict[str, Any], RunFolder]:
    """The settings of a fork, and where it lies.

    Raises:
        ConfigError: a setting that makes no sense, or a study lies there already.
    """
    settings = compose.changed(stored, [f"name={check_name(new)}", *overrides])
    kept = [key for key in ("storage", "images_budget") if not any(o.startswith(f"{key}=") for o in overrides)]
    settings |= dict.fromkeys(kept)  # the old study's place, and what it had to spend
    settings, address = _take_address(settings)
    folder = RunFolder(runs / new, address)
    if is_begun(folder):
        raise ConfigError(
            f"study '{new}' exists: choose another name, or go on with  bayes-merger resume {folder.typed}"
        )
    return settings, folder


_OF_PICTURES = {"payloads", "images_per_prompt", "wildcards", "styles"}
"""The settings from which a study's pictures are drawn."""

ENDS = ("n_iters", "images_budget", "time_limit", "patience")
"""The settings that say when a search has done enough."""


def _remember_places(study: optuna.study.Study, setup: RunSetup) -> None:
    """Where the model files are now, for those who read the study; they are the same files."""
    recipe, now = study.user_attrs[RECIPE], references(setup.checkpoints, hashed=False)
    models = {name: dict(model) for name, model in recipe["models"].items()}
    for name in models.keys() & now.keys():
        models[name]["path"] = now[name].path
    merge = setup.recipe({}).to_json()
    files = {key: merge[key] for key in ("saliency", "act") if recipe.get(key) and merge.get(key)}
    if {**recipe, "models": models, **files} != recipe:
        study.set_user_attr(RECIPE, {**recipe, "models": models, **files})


def _take_address(settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings, which are kept and shown, without a password; and the storage's address with it.

    Raises:
        ConfigError: there is nothing at that address.
    """
    address = str(settings["storage"] or "")
    if address and (file := file_at(address)) is not None:
        address = str(user_path(file).absolute())
    if is_address(address):
        open_storage(address).engine.dispose()
    return {**settings, "storage": redacted(address) or None}, address


def new_study(
    setup: RunSetup,
    settings: Mapping[str, Any],
    folder: RunFolder,
    progress: ProgressReporter,
    design: Sequence[Mapping[str, float]],
    taken: Sequence[optuna.trial.FrozenTrial] = (),
) -> optuna.study.Study:
    """The study of a run that begins, with its start design waiting and the trials that it takes over."""
    from bayes_merger.run import loop

    progress.step("hashing the models")
    loop.write_settings(folder, settings)
    folder.point()
    mark = fingerprint(setup, settings["scorers"])
    stored = {**setup.stored(settings), VERSIONS: versions_here(setup.config.generator.device)}
    return loop.open_study(setup, folder, mark, stored, design, taken, waiting=progress.note)
