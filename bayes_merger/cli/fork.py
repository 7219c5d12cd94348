"""``fork``: a new study that takes over what compares from another one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_merger.cli import compose
from bayes_merger.cli.anchors import start_design
from bayes_merger.cli.run import (
    carry_on,
    check_space,
    is_begun,
    make_setup,
    split_off,
    stored_with,
    take_address,
)
from bayes_merger.cli.show import load
from bayes_merger.cli.terminal import watching
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.folder import RunFolder, check_name, find_study
from bayes_merger.run.setup import fingerprint

HELP = """\
bayes-merger fork NAME NEW [SETTING=VALUE ...]

  bayes-merger fork A-B A-B-gp optimiser=gp n_iters=40
  bayes-merger fork A-B narrow 'space.ranges.OUT09-OUT11=[0.2,0.4]' space.frozen.IN00=0.5

Starts the study NEW with NAME's settings, changed as you say, and takes over the finished trials whose merges lie in
its space, without drawing them again: they are its start design. It goes on from there: n_iters trials that the
optimiser chooses, after what init_points asks for beyond those taken over. The pictures stay where they are.
Models, method, payloads and scorers must be NAME's, or the scores would not compare.
"""


def fork(arguments: Sequence[str]) -> None:
    """Start a new study from an old one.

    Raises:
        ConfigError: no such study, a setting that makes no sense, or scores that would not compare.
        CheckpointError: a model file that cannot be used.
    """
    from bayes_merger.run import loop
    from bayes_merger.search.study.fork import inheritance, rows_still_needed
    from bayes_merger.search.study.study import FINGERPRINT, fingerprint_difference

    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return
    if len(arguments) < 2:
        raise ConfigError("fork: takes the study and the new one's name, like  bayes-merger fork NAME NEW optimiser=gp")
    name, new, *overrides = arguments
    if "=" in new:
        raise ConfigError(f"fork: the new study has no name; give it like  bayes-merger fork {name} NEW {new}")
    runs = Path(split_off("runs", overrides)[0] or "runs")
    old = find_study(runs, name)
    study = load(old)
    settings = compose.changed(study.user_attrs["config"], [f"name={check_name(new)}", *overrides])
    settings = settings if any(o.startswith("storage=") for o in overrides) else {**settings, "storage": None}
    address = take_address(settings)
    folder = RunFolder(runs / new, address)
    if is_begun(folder):
        raise ConfigError(f"study '{new}' exists: choose another name, or go on with  bayes-merger resume {new}")
    redrawn = any(o.lstrip("+~").split("=")[0].split(".")[0] in ("payloads", "wildcards") for o in overrides)
    payloads = None if redrawn else tuple(Payload.from_json(p) for p in study.user_attrs["payloads"])
    parts = make_setup(compose.validate(settings), settings, folder, payloads)
    check_space(parts, folder)
    mark = fingerprint(parts, settings["scorers"])
    difference = fingerprint_difference(_less_space(study.user_attrs[FINGERPRINT]), _less_space(mark))
    if difference:
        raise ConfigError(
            f"fork: the scores of '{name}' would not compare with those of '{new}': {'; '.join(difference)}. "
            "Undo the change, or start anew with  bayes-merger run"
        )
    heritage = inheritance(study, parts.space)
    if not heritage.trials:
        why = next(iter(heritage.left_out.values()), "it has no finished trial")
        raise ConfigError(f"fork: no trial of '{name}' can be taken over: {why}; start anew with  bayes-merger run")
    wanted = max(parts.config.init_points, len(heritage.trials))
    rows = rows_still_needed(start_design(parts)[0], heritage.trials, wanted)
    settings["init_points"] = wanted
    parts = replace(parts, config=compose.validate(settings))
    taken = [_with_pictures(trial, old, folder) for trial in heritage.trials]
    with folder.locked(), watching(folder.log) as watcher:
        watcher.note(f"study {new} in {folder.path}: {_told(name, len(taken), heritage.left_out)}")
        watcher.step("hashing the models")
        loop.write_settings(folder, settings)
        folder.point()
        study = loop.open_study(parts, folder, mark, stored_with(parts, settings), rows, taken)
        carry_on(parts, study, folder, watcher)


def _told(name: str, taken: int, left_out: dict[int, str]) -> str:
    text = f"{taken} of {taken + len(left_out)} trials of {name} taken over"
    if left_out:
        text += f"; left out: {next(iter(left_out.values()))}" + (", and so on" if len(left_out) > 1 else "")
    return text


def _less_space(mark: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mark.items() if key != "space"}


def _with_pictures(trial: Any, old: RunFolder, new: RunFolder) -> Any:
    """The trial with its pictures where they are, as seen from the new folder."""
    attributes = dict(trial.user_attrs)
    attributes["images"] = [
        Path(os.path.relpath(old.path / image, new.path)).as_posix() for image in attributes.get("images", ())
    ]
    trial.user_attrs = attributes
    return trial
