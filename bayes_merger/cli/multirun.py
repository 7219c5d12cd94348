"""``run --multirun``: the product of several values per setting, as several studies, one after another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bayes_merger import compose, session
from bayes_merger.cli.terminal import watching
from bayes_merger.config import CHANGEABLE
from bayes_merger.errors import BayesMergerError, ConfigError, Interrupted, Paused
from bayes_merger.report.summary import summary
from bayes_merger.report.tables import with_error
from bayes_merger.run.anchors import start_design
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.budget import FOLLOWING
from bayes_merger.run.effect.narrowing import narrowed
from bayes_merger.run.folder import RunFolder, check_name, is_begun, load, slug
from bayes_merger.run.new_folder import stem_of
from bayes_merger.run.progress import Reporting
from bayes_merger.search.space.from_effect import as_asked
from bayes_merger.search.study.storage import is_address
from bayes_merger.setups import make_setup

SHARED = ("name", "runs", "storage")
"""What all studies of one command share."""

LONGEST = 32
"""Characters of a swept value in a study's name."""


@dataclass(frozen=True)
class Planned:
    """One study of a sweep.

    Attributes:
        swept: setting to its value here, as typed.
        overrides: as typed, with these values.
        settings: all of them, composed.
        folder: the study's.
    """

    swept: Mapping[str, str]
    overrides: tuple[str, ...]
    settings: Mapping[str, Any]
    folder: RunFolder

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        if not is_begun(self.folder):
            return False
        stored = load(self.folder)
        data = summary(stored)
        budget = int(self.settings["init_points"]) + int(self.settings["n_iters"])
        if pictures := self.settings["images_budget"]:
            if pictures > (stored.user_attrs[CONFIG].get("images_budget") or pictures):
                return False
            budget = data["trials"]["budget"]
        return data["state"] == "done" and (bool(data["stopped"]) or data["trials"]["finished"] >= budget)


def multirun(overrides: Sequence[str], reporting: Reporting = watching, *, queued: bool = False) -> None:
    """Run one study per combination of the swept values; what was begun earlier goes on, what is done is left alone.

    Args:
        overrides: as typed.
        reporting: opens each study's progress reporter.
        queued: each waits its turn on its device.

    Raises:
        ConfigError: a setting that makes no sense in one of them; found before the first one starts.
        CheckpointError: a model file that cannot be used; likewise.
        Interrupted: the user asked to stop.
        Paused: the person who scores went away.
        BayesMergerError: some of the studies failed; the others were run.
    """
    studies = plan_studies(overrides)
    for study in studies:
        _check(study)
    trials = sum(int(s.settings["init_points"]) + int(s.settings["n_iters"]) for s in studies)
    in_all = "" if any(s.settings["images_budget"] for s in studies) else f", {trials} trials in all"
    print(f"{len(studies)} studies{in_all}, one after another")
    failed: dict[str, str] = {}
    for number, study in enumerate(studies, 1):
        name = study.folder.name
        if study.is_done:
            print(f"[{number}/{len(studies)}] {name}: done")
            continue
        print(f"[{number}/{len(studies)}] {name}", flush=True)
        try:
            _run(study, reporting, queued=queued)
        except (Interrupted, Paused) as error:
            raise type(error)(f"{error}; the same command goes on with all {len(studies)} studies") from error
        except BayesMergerError as error:
            failed[name] = str(error)
            print(f"{name}: failed: {error}", flush=True)
    Console(markup=False).print(closing_table(studies, failed))
    if failed:
        raise BayesMergerError(
            f"{len(failed)} of {len(studies)} studies failed: {', '.join(failed)}; the same command goes on with them"
        )


def plan_studies(overrides: Sequence[str]) -> list[Planned]:
    """The studies that a sweep stands for, composed and named; nothing is opened or written.

    Raises:
        ConfigError: a sweep that makes no sense, or settings that do not compose.
    """
    sweeps: dict[str, list[str]] = {}
    plain: list[str] = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.partition("/")[0].partition(".")[0] == "hydra":
            raise ConfigError(
                f"{key}: Hydra's own sweepers and launchers are not used; list the values, like  seed=0,1,2  (a search "
                "over values is what a study does)"
            )
        values = compose.swept_values(override)
        if values is None:
            plain.append(override)
        elif key in SHARED:
            raise ConfigError(f"{key}: is the same for all studies of a multirun; give one value")
        else:
            sweeps[override.partition("=")[0]] = values
    if not sweeps:
        raise ConfigError("--multirun: no setting has several values; give some, like  optimiser=structured,bayes")
    return list(_composed(plain, sweeps))


def _composed(plain: Sequence[str], sweeps: Mapping[str, Sequence[str]]) -> Iterator[Planned]:
    keys = list(sweeps)
    names: set[str] = set()
    stem = ""
    for values in product(*sweeps.values()):
        swept = dict(zip(keys, values, strict=True))
        overrides = (*plain, *(f"{key}={value}" for key, value in swept.items()))
        try:
            settings = compose.compose_run(overrides)
        except ConfigError as error:
            raise ConfigError(f"{', '.join(f'{k}={v}' for k, v in swept.items())}: {error}") from error
        named = check_name(settings["name"]) if settings["name"] else stem_of(compose.validate(settings))
        stem = stem or named
        name = f"{stem}-{_label(swept, keys)}"
        if name in names:
            name = f"{name}-{hashlib.sha256(repr(values).encode()).hexdigest()[:6]}"
        names.add(name)
        address = str(settings["storage"] or "")
        address = address if is_address(address) else ""
        yield Planned(swept, overrides, {**settings, "name": name}, RunFolder(Path(settings["runs"]) / name, address))


def _label(swept: Mapping[str, str], keys: Sequence[str]) -> str:
    """``optimiser-bayes-seed-1``: safe as a folder's name, and the same for the same values."""
    short = [key.rpartition(".")[2] for key in keys]
    shown = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    parts = []
    for key, value in zip(shown, swept.values(), strict=True):
        text = slug(Path(value.strip("'\"")).stem if value.endswith(".safetensors") else value.strip("'\""))
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"
        parts.append(f"{slug(key)}-{text}")
    return "-".join(parts)


def _check(study: Planned) -> None:
    """Whether one study can start, or go on with these settings.

    Raises:
        ConfigError: it cannot; the text begins with the study's name.
        CheckpointError: a model file that cannot be used; likewise.
    """
    try:
        if is_begun(study.folder):
            _changes(study)
            return
        setup = make_setup(compose.validate(study.settings), study.settings, study.folder)
        try:
            start_design(narrowed(setup))
        finally:
            setup.close()
    except BayesMergerError as error:
        raise type(error)(f"{study.folder.name}: {error}") from error


def _changes(study: Planned) -> list[str]:
    """The overrides by which a study that exists becomes the one that is asked for.

    Raises:
        ConfigError: it is another study.
    """
    both = (load(study.folder).user_attrs[CONFIG], study.settings)
    stored, wanted = (dict(_leaves({**settings, "space": as_asked(settings.get("space") or {})})) for settings in both)
    followers = compose.followers(study.overrides)
    follow = {key for key in FOLLOWING if key == "n_iters" or wanted.get(key) is None}  # unless they are given
    keys = sorted((stored.keys() | wanted.keys()).difference(follow if wanted.get("images_budget") else ()))
    changed = [key for key in keys if stored.get(key) != wanted.get(key)]
    for key in changed:
        if not _may_change(key) and key not in followers:
            raise ConfigError(f"exists with {key}={stored.get(key)!r}, not {wanted.get(key)!r}; choose another name=")
    return [f"{key}={'null' if wanted[key] is None else wanted[key]}" for key in changed if _may_change(key)]


def _may_change(key: str) -> bool:
    return any(key == ok or key.startswith(f"{ok}.") for ok in CHANGEABLE)


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for name, branch in tree.items():
            yield from _leaves(branch, f"{key}.{name}" if key else str(name))
    else:
        yield key, tree


def _run(study: Planned, reporting: Reporting, *, queued: bool) -> None:
    if is_begun(study.folder):
        name, address, runs = study.folder.name, study.folder.address, study.folder.path.parent
        session.resume(name, _changes(study), runs=runs, address=address, reporting=reporting, queued=queued)
    else:
        session.begin(study.settings, reporting=reporting, queued=queued)


def closing_table(studies: Sequence[Planned], failed: Mapping[str, str]) -> Table:
    """What each study came to, a row each, in the order of the sweep."""
    keys = list(studies[0].swept)
    columns = [key.rpartition(".")[2] for key in keys]
    results = ("trials", "best", "posterior mean", "fresh seeds", "leads by")
    table = Table(*columns, *results, title="the studies of this multirun", title_justify="left")
    for study in studies:
        name = study.folder.name
        if name in failed:
            table.add_row(*study.swept.values(), "failed")
            continue
        data = summary(load(study.folder))
        best, final = data["best"], data["final"]
        rows = final["rows"] if final else []
        closest = min((row["behind"] for row in rows[1:]), default=None)
        table.add_row(
            *study.swept.values(),
            f"{data['trials']['finished']}/{data['trials']['budget']}",
            f"{best['value']:.3f}" if best else "",
            with_error(best["mean"], best["sd"]) if best and "mean" in best else "",
            with_error(rows[0]["mean"], rows[0]["error"]) if rows else "",
            f"{closest:+.3f}" if closest is not None else "",
        )
    return table
