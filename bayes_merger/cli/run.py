"""``run`` and ``resume``: settings in, a study out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger import compose
from bayes_merger.cli.arguments import as_settings, split_flag, split_off
from bayes_merger.cli.notifying import notified
from bayes_merger.cli.seat import seated
from bayes_merger.config import CHANGEABLE
from bayes_merger.errors import ConfigError, UserError
from bayes_merger.run import steering
from bayes_merger.run.control import PAUSE
from bayes_merger.run.folder import RunFolder, find_study
from bayes_merger.run.turns import QUEUED
from bayes_merger.search.space.from_effect import about_effect, read_from_effect

RUN_HELP = """\
bayes-merger run [SETTING=VALUE ...]

  bayes-merger run experiment=demo
  bayes-merger run model_a=A.safetensors model_b=B.safetensors payloads=portrait,street scorers=laion
  bayes-merger run ... method=n_average model_c=C.safetensors model_d=D.safetensors      and model_e=, model_f=, ...
  bayes-merger run recipe=steps.yaml payloads=portrait scorers=laion      several steps: see merge --help
  bayes-merger run ... optimiser=tpe n_iters=100 space.frozen.OUT11=0.5 payloads.portrait.steps=30
  bayes-merger run --multirun ... optimiser=structured,bayes seed=0,1,2      a study each, one after another; the same
                                    command goes on after Ctrl-C or a kill (range(0,3) and choice(a,b) are understood)
  bayes-merger run ... scorers=manual      you rate, in a page of the browser, while the run draws on; from a phone:
                                    web.host=0.0.0.0; at another port: web.port=9000
  bayes-merger run ... notify.webhook=https://...      tells that address by POST: done, failed, waiting for you, a new
                                    best; or in the environment variable BAYES_MERGER_WEBHOOK
  bayes-merger run ... generator=outside name=mine      you draw and judge: a program asks for merges (docs/api.md)
  bayes-merger run ... --queue      begins when no other run in the same folder draws on its device; also resume, fork
  bayes-merger run ... --cfg        print the settings and stop

Most runs need six of them: model_a and model_b (files, or names of models_dir), payloads (your prompts), scorers (who
judges), n_iters (how many trials), name. Your own payloads/NAME.yaml, scorers/NAME.yaml and conf/ in the working folder
are found before ours.

"""


def run(arguments: Sequence[str]) -> None:
    """Start a new study.

    Raises:
        ConfigError: a setting that makes no sense, or the study exists.
        CheckpointError: a model file that cannot be used.
    """
    arguments = as_settings(arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(RUN_HELP + compose.settings_help(), end="")
        return
    reporting, arguments = notified(arguments)
    queued, arguments = split_flag(QUEUED, arguments)
    if any(argument in ("-m", "--multirun") for argument in arguments):
        from bayes_merger.cli.multirun import multirun

        swept = [argument for argument in arguments if argument not in ("-m", "--multirun")]
        multirun(swept, reporting, queued=queued)
        return
    seating, arguments = seated(arguments)
    overrides = [argument for argument in arguments if argument not in ("--cfg", "--cfg=job")]
    if len(overrides) < len(arguments):
        print(compose.settings_text(overrides), end="")
        _print_searched(overrides)
        return
    settings = compose.compose_run(overrides)
    from bayes_merger import session

    named = any(override.startswith("name=") for override in overrides)
    session.begin(settings, named=named, reporting=reporting, seating=seating, queued=queued)


def _print_searched(overrides: Sequence[str]) -> None:
    """What the settings make the run search, as a comment; that depends on the models, which may not be there yet."""
    from bayes_merger.run.effect.narrowing import looked_up
    from bayes_merger.run.setup import open_and_divide

    try:
        config = compose.validate(compose.compose_run(overrides))
        checkpoints, _, space, _ = open_and_divide(config)
        config = looked_up(config, checkpoints, space)
    except UserError as error:
        print(f"# searched: not known yet ({error})")
        return
    for checkpoint in checkpoints.values():
        checkpoint.close()
    found = read_from_effect(config.space)
    names = [p.name for p in space.parameters if not (found and found.frozen and p.name in found.frozen)]
    print(f"# searched: {len(names)} numbers: {', '.join(names)}")
    if line := about_effect(config.space, space.blocks):
        print(f"# {line}")


def resume(arguments: Sequence[str]) -> None:
    """Go on with a study.

    Raises:
        ConfigError: no such study, or settings that would make its scores incomparable.
        CheckpointError: a model file that cannot be used.
    """
    from bayes_merger import session

    if not arguments or arguments[0] in ("-h", "--help"):
        print("bayes-merger resume NAME [n_iters=100] [workers=2] [model_a=/moved/to/A.safetensors] [--queue]\n"
              "                         [storage=postgresql://...]  where the study is, if not in runs/NAME\n"
              f"settings that may change: {', '.join(CHANGEABLE)}")  # fmt: skip
        return
    queued, arguments = split_flag(QUEUED, as_settings(arguments))
    name, overrides = name_of(arguments, "resume: takes the study, like  bayes-merger resume NAME")
    seating, overrides = seated(overrides)
    reporting, overrides = notified(overrides)
    address, overrides = split_off("storage", overrides)
    runs, changes = split_off("runs", overrides)
    runs = runs or "runs"
    if _steered(find_study(Path(runs), name, address), changes):
        return
    session.resume(name, overrides, runs=runs, address=address, reporting=reporting, seating=seating, queued=queued)


def _steered(folder: RunFolder, overrides: Sequence[str]) -> bool:
    """Whether a run of it goes on already, and was let go on or given more trials.

    Raises:
        ConfigError: it has as many trials already.
    """
    wanted = [override.removeprefix("n_iters=") for override in overrides]
    more = len(wanted) == 1 and wanted[0].isdecimal()
    paused = steering.asked_of(folder) == PAUSE if steering.goes_on(folder) else None
    if paused is None or not (more or (paused and not overrides)):
        return False
    if more:
        total = steering.give_trials(folder, int(wanted[0]))
        print(f"study {folder.name} goes on, to {total} trials in all")
    if paused:
        steering.go_on(folder)
        print(f"study {folder.name} is no longer paused")
    return True


def name_of(arguments: Sequence[str], way_out: str) -> tuple[str, list[str]]:
    """The first argument that is no setting, and the others.

    Raises:
        ConfigError: there is none.
    """
    names = [argument for argument in arguments if "=" not in argument]
    if not names:
        raise ConfigError(way_out)
    rest = list(arguments)
    rest.remove(names[0])
    return names[0], rest
