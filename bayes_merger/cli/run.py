"""``run`` and ``resume``: settings in, a study out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from bayes_merger.checkpoints.opening import hash_all
from bayes_merger.cli import compose
from bayes_merger.cli.anchors import start_design
from bayes_merger.cli.show import best_lines, load
from bayes_merger.cli.terminal import candidates_table, closing_table, front_table, table_text, watching
from bayes_merger.config import RunConfig
from bayes_merger.errors import BayesMergerError, ConfigError, Interrupted, Paused
from bayes_merger.imaging.payload import Payload
from bayes_merger.report.summary import summary, write_best
from bayes_merger.run.folder import RunFolder, check_name, find_study, slug
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.record import chosen_trial, complete_trials, final_of, posterior_of
from bayes_merger.run.setup import RunSetup, check_setup, fingerprint
from bayes_merger.scoring.scorer import Scorer
from bayes_merger.search.study.stopping import PATIENT_FROM, STOPPED
from bayes_merger.search.study.study import finished

CHANGEABLE = ("n_iters", "time_limit", "patience", "pruning", "workers", "images", "model_a", "model_b", "model_c",
              "models", "recipe.models",
              "runs", "final", "generator.device", "generator.max_batch", "generator.config")  # fmt: skip

RUN_HELP = """\
bayes-merger run [SETTING=VALUE ...]

  bayes-merger run experiment=demo
  bayes-merger run model_a=A.safetensors model_b=B.safetensors payloads=[portrait,street] scorers=[laion]
  bayes-merger run ... method=n_average model_c=C.safetensors model_d=D.safetensors      and model_e=, model_f=, ...
  bayes-merger run recipe=steps.yaml payloads=[portrait] scorers=[laion]      several steps: see merge --help
  bayes-merger run ... optimiser=tpe n_iters=100 space.frozen.OUT11=0.5 payloads.portrait.steps=30
  bayes-merger run ... --cfg        print the settings and stop

Your own payloads/NAME.yaml, scorers/NAME.yaml and conf/ in the working folder are found before ours.

"""


def run(arguments: Sequence[str]) -> None:
    """Start a new study.

    Raises:
        ConfigError: a setting that makes no sense, or the study exists.
        CheckpointError: a model file that cannot be used.
    """
    from bayes_merger.run import loop

    if any(argument in ("-h", "--help") for argument in arguments):
        print(RUN_HELP + compose.settings_help(), end="")
        return
    overrides = [argument for argument in arguments if argument not in ("--cfg", "--cfg=job")]
    if len(overrides) < len(arguments):
        print(compose.settings_text(overrides), end="")
        return
    settings = compose.compose_run(overrides)
    address = take_address(settings)
    config = compose.validate(settings)
    folder = new_folder(config, address, named=any(override.startswith("name=") for override in overrides))
    parts = make_setup(config, settings, folder)
    design, about_anchors = start_design(parts)
    check_space(parts, folder)
    check_models(parts)
    settings["name"] = folder.name
    with folder.locked(), watching(folder.log) as watcher:
        watcher.note(f"study {folder.name} in {folder.path}")
        for line in about_anchors:
            watcher.note(line)
        watcher.step("hashing the models")
        loop.write_settings(folder, settings)
        folder.point()
        stored = stored_with(parts, settings)
        study = loop.open_study(parts, folder, fingerprint(parts, settings["scorers"]), stored, design)
        carry_on(parts, study, folder, watcher)


def take_address(settings: dict[str, Any]) -> str:
    """The storage of a new study; in the settings, which are kept and shown, it stays without its password.

    Raises:
        ConfigError: there is nothing at that address.
    """
    from bayes_merger.search.study.storage import is_address, open_storage, redacted

    address = str(settings["storage"] or "")
    if address and not is_address(address):
        address = str(Path(address).expanduser().absolute())
    if is_address(address):
        open_storage(address).engine.dispose()
    settings["storage"] = redacted(address) or None
    return address


def stored_with(parts: RunSetup, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a study remembers, so that it can be resumed and its merges rebuilt from it alone."""
    return {
        "config": dict(settings),
        "recipe": {key: value for key, value in parts.recipe({}).to_json().items() if key != "weights"},
        "payloads": [payload.to_json() for payload in parts.payloads],
        "judges": {name: [scorer.importance, list(scorer.scale)] for name, scorer in parts.scorers.items()},
    }


def resume(arguments: Sequence[str]) -> None:
    """Go on with a study.

    Raises:
        ConfigError: no such study, or settings that would make its scores incomparable.
    """
    from bayes_merger.run import loop

    if not arguments or arguments[0] in ("-h", "--help"):
        print("bayes-merger resume NAME [n_iters=100] [workers=2] [model_a=/moved/to/A.safetensors]\n"
              "                         [storage=postgresql://...]  where the study is, if not in runs/NAME\n"
              f"settings that may change: {', '.join(CHANGEABLE)}")  # fmt: skip
        return
    name, *overrides = arguments
    address, overrides = split_off("storage", overrides)
    folder = find_study(Path(split_off("runs", overrides)[0] or "runs"), name, address)
    check_changeable(name, load(folder).user_attrs["config"], overrides)
    settings, parts = stored_run(folder, overrides)
    config = parts.config
    with folder.locked(), watching(folder.log) as watcher:
        watcher.step("hashing the models")
        folder.point()
        study = loop.open_study(parts, folder, fingerprint(parts, settings["scorers"]), {})
        if any(override.partition("=")[0] in ("n_iters", "time_limit", "patience") for override in overrides):
            study.set_user_attr(PATIENT_FROM, finished(study))
        if overrides:
            study.set_user_attr("config", settings)
            loop.write_settings(folder, settings)
        done, total = finished(study), config.init_points + config.n_iters
        watcher.note(f"study {folder.name}: {done} of {total} trials finished, going on")
        carry_on(parts, study, folder, watcher)


def check_changeable(name: str, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse changes on resume that would make a study's trials incomparable, or its course another one.

    Raises:
        ConfigError: naming the first of them, what it is and what it cannot become.
    """
    for override in overrides:
        key, _, value = compose.in_full(override).partition("=")
        if any(key == ok or key.startswith(f"{ok}.") for ok in CHANGEABLE):
            continue
        stored: Any = config
        for part in key.split("."):
            stored = stored.get(part) if isinstance(stored, Mapping) else None
        raise ConfigError(
            f"{key}: {stored!r} cannot become {value!r} on resume; what compares is taken over by  "
            f"bayes-merger fork {name} NEW {override}  (these can change: {', '.join(CHANGEABLE)})"
        )


def split_off(setting: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """One setting's value (empty if it is not there) and the other overrides."""
    values = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == setting]
    return values[-1] if values else "", [o for o in overrides if o.partition("=")[0] != setting]


def stored_run(folder: RunFolder, overrides: Sequence[str]) -> tuple[dict[str, Any], RunSetup]:
    """The settings and parts of a study that exists, with changes.

    Raises:
        ConfigError: no such study, or a change that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    stored = load(folder).user_attrs
    settings = compose.changed(stored["config"], overrides)
    payloads = tuple(Payload.from_json(payload) for payload in stored["payloads"])
    return settings, make_setup(compose.validate(settings), settings, folder, payloads)


def new_folder(config: RunConfig, address: str = "", *, named: bool = True) -> RunFolder:
    """The folder of a new study.

    Args:
        config: the settings.
        address: of its storage; empty: the folder itself.
        named: the person typed the name; otherwise a number is added to one that is taken.

    Raises:
        ConfigError: the name is taken or cannot be a folder.
    """
    runs = Path(config.runs)
    stem = check_name(config.name) if config.name else ""
    if stem and named:
        folder = RunFolder(runs / stem, address)
        if is_begun(folder):
            raise ConfigError(
                f"study '{folder.name}' exists: go on with  bayes-merger resume {folder.name}  or choose another name="
            )
        return folder
    stem = stem or "-".join(slug(Path(model).stem)[:40] for model in (config.model_a, config.model_b))
    number = 1
    while is_begun(folder := RunFolder(runs / (stem if number == 1 else f"{stem}-{number}"), address)):
        number += 1
    return folder


def is_begun(folder: RunFolder) -> bool:
    """Whether a study lies there; a run that was killed while making one left nothing worth keeping."""
    for place in {folder, RunFolder(folder.path)}:  # the folder of another study is not free either
        if place.exists():
            try:
                load(place)
            except ConfigError:
                continue
            return True
    return False


def make_setup(
    config: RunConfig, settings: Mapping[str, Any], folder: RunFolder, payloads: tuple[Payload, ...] | None = None
) -> RunSetup:
    """Everything a run needs, checked; nothing is loaded or written."""
    scorers = {name: make_scorer(name, scorer) for name, scorer in settings["scorers"].items()}
    if not scorers:
        raise ConfigError("scorers: none chosen; give at least one, like  scorers=[laion]")
    sampler = compose.build("optimiser", settings["optimiser"], _partial_=True)
    return check_setup(config, scorers, sampler, folder.path, payloads=payloads)


def make_scorer(name: str, settings: Any) -> Scorer:
    """One scorer from its YAML.

    Raises:
        ConfigError: it cannot be built.
    """
    if not isinstance(settings, dict):
        raise ConfigError(f"scorers.{name}: needs a mapping with a _target_, not {settings!r}")
    scorer: Scorer = compose.build(f"scorers.{name}", {"name": name, **settings})
    return scorer


def check_space(parts: RunSetup, folder: RunFolder, free: int | None = None) -> None:
    """Whether the disk holds what the run will write.

    Args:
        parts: the run.
        folder: where it will write.
        free: bytes that are free there; ``None`` asks the system.

    Raises:
        ConfigError: it does not.
    """
    place = folder.path.absolute()
    while not place.exists():
        place = place.parent
    needed = 64 << 20
    if parts.config.final.save:
        needed += sum(file.stat().st_size for file in parts.base.files)
    free = shutil.disk_usage(place).free if free is None else free
    if free < needed:
        raise ConfigError(
            f"runs: {place} has {free / 1e9:.1f} GB free and the best merge needs {needed / 1e9:.1f} GB; "
            "make room, or give another folder with  runs=FOLDER"
        )


def check_models(parts: RunSetup) -> None:
    """What can only be seen by reading the models whole: seconds for large ones, before anything is written.

    Raises:
        ConfigError: they are all the same.
        CheckpointError: one holds NaN or infinity.
    """
    hash_all(parts.checkpoints.values())
    if len({checkpoint.sha256() for checkpoint in parts.checkpoints.values()}) == 1:
        names = " and ".join(f"model_{name}" for name in parts.checkpoints)
        raise ConfigError(f"{names}: are the same model, so every merge of them is; give two different files")
    for checkpoint in parts.checkpoints.values():
        checkpoint.scan()


def carry_on(parts: RunSetup, study: optuna.study.Study, folder: RunFolder, watcher: ProgressReporter) -> None:
    """The search, the final round and what is taken home; whatever ends it early, what is known is written."""
    from bayes_merger.run.evaluator import PipelineEvaluator
    from bayes_merger.run.final import decide, keep_pictures
    from bayes_merger.run.loop import search
    from bayes_merger.run.workers import search_together

    again = f"go on with  bayes-merger resume {folder.name}"
    if parts.config.runs != "runs":
        again += f" runs={parts.config.runs}"
    try:
        with StopSignal(watcher) as stop:
            unfinished = finished(study) < parts.config.init_points + parts.config.n_iters
            if unfinished:
                study.set_user_attr("final", None)
                study.set_user_attr(STOPPED, None)
            if unfinished and parts.config.workers > 1:
                search_together(parts, study, folder, watcher, stop)
            bench = PipelineEvaluator.load(parts, watcher, stop)
            if unfinished and parts.config.workers == 1:
                search(parts, study, bench, folder, watcher, stop)
            if not final_of(study):
                study.set_user_attr("final", decide(parts, study, bench, watcher, stop).to_json())
            keep_pictures(parts, study, bench, folder, watcher)
        export_best(parts, study, folder, watcher)
    except (Paused, Interrupted) as error:
        if complete_trials(study):
            write_best(study, folder)
        raise type(error)(f"{error}; {again}") from error
    except BayesMergerError as error:
        raise type(error)(f"{error}; when that is mended, {again}") from error


def export_best(parts: RunSetup, study: optuna.study.Study, folder: RunFolder, watcher: ProgressReporter) -> None:
    """Write the best merge and say where everything is."""
    from bayes_merger.merging.engine.merge import save_merge

    recipe = write_best(study, folder)
    trial = chosen_trial(study)
    if parts.config.final.save:
        watcher.step("writing the best merge")
        save_merge(recipe, parts.checkpoints, folder.model, replace=True)
    final = final_of(study)
    data = summary(study)
    if "front" in data:
        watcher.note(table_text(front_table(data["front"], trial.number)))
    if final and final.rescored:
        watcher.note(table_text(candidates_table(final, posterior_of(study))))
    if final and final.rows:
        watcher.note(table_text(closing_table(final)))
    for line in best_lines(data):
        watcher.note(line)
    if parts.config.final.save:
        watcher.note(f"model    {folder.model}")
    watcher.note(f"recipe   {folder.best / 'recipe.json'}   weights {folder.best / 'weights.txt'}")
    watcher.note(f"pictures and plots in {folder.best}")
