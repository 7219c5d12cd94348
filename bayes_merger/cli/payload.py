"""``payload``: what is drawn, taken over from a web UI, checked, and drawn with one model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import yaml

from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser, is_setting, split_off
from bayes_merger.errors import ConfigError, counted, nearest, printable
from bayes_merger.paths import user_path

HELP = """\
bayes-merger payload import PICTURE|JSON|TEXT ... > payloads/mine.yaml
    what web UIs have written into their pictures (PNG, JPEG, WebP of A1111, Forge, ComfyUI, Civitai), a request of
    A1111's API or a graph of ComfyUI as JSON, a text of prompts; what cannot be drawn is left out, and said
bayes-merger payload check payloads=mine [wildcards=FOLDER] [styles=styles.csv]
    what these payloads draw, or what is wrong with them
bayes-merger payload draw MODEL payloads=mine [out=FOLDER] [loras=FOLDER] [embeddings=FOLDER] [generator.device=cpu]
    draw them with one model, without a search; no file is replaced
"""


def payload(arguments: Sequence[str]) -> None:
    """Import, check or draw payloads.

    Raises:
        ConfigError: a file or a payload that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    verbs = {"import": _import, "check": _check, "draw": _draw}
    if arguments[0] not in verbs:
        raise ConfigError(f"payload: no '{printable(arguments[0])}'; {nearest(arguments[0], verbs)}")
    verbs[arguments[0]](arguments[1:])


def _import(arguments: Sequence[str]) -> None:
    from bayes_merger.imaging.payload.imports import import_file

    parser = Parser(prog="bayes-merger payload import", description="Payloads of files, as YAML.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="pictures, JSON or texts")
    found = [one for file in parser.parse_args(arguments).files for one in import_file(user_path(file))]
    taken: dict[str, int] = {}
    for one in found:
        taken[one.name] = taken.get(one.name, 0) + 1
        if taken[one.name] > 1:
            one.name += f"_{taken[one.name]}"
        for note in one.notes:
            print(f"note: {one.name}: {printable(note, longest=400)}", file=sys.stderr)
        for note in one.notes:
            print(f"# {printable(note, longest=400)}")
        print(yaml.safe_dump({one.name: one.fields}, allow_unicode=True, sort_keys=False, width=10_000), end="")


def settings_of_one(arguments: Sequence[str], model: str) -> Any:
    """The settings of a run that would draw with this model alone."""
    from bayes_merger import compose
    from bayes_merger.run.checks import check_without_merge

    for argument in arguments:
        if "=" not in argument:
            raise ConfigError(f"'{printable(argument)}' is no setting; write it like  payloads=mine")
    check_without_merge(argument.partition("=")[0] for argument in arguments)
    return compose.validate(compose.compose_run([*arguments, f"model_a={model}", f"model_b={model}"]))


def _check(arguments: Sequence[str]) -> None:
    from bayes_merger.run.payloads import named_payloads

    for one in named_payloads(settings_of_one(arguments, "none")):
        second = f", then {one.hires.width}x{one.hires.height} in {one.hires.steps}" if one.hires else ""
        print(f"{one.name}: {counted(one.batch_size, 'picture')} of {one.width}x{one.height}, {one.steps} steps of "
              f"{one.sampler_name} {one.scheduler}{second}, seed {one.seeds[0]}")  # fmt: skip
        for prompt in dict.fromkeys(one.prompts[:3]):
            print(f"  {printable(' '.join(prompt.split()), longest=110)}")


def _draw(arguments: Sequence[str]) -> None:
    if not arguments or is_setting(arguments[0]):
        raise ConfigError("payload draw: takes the model, like  bayes-merger payload draw MODEL payloads=mine")
    out, overrides = split_off("out", arguments[1:])
    config = settings_of_one(overrides, arguments[0])
    from bayes_merger.run.draw import draw_with

    def note(text: str) -> None:
        print(text, file=sys.stderr)

    for path in draw_with(config, user_path(out or "drawn"), note, steps.drawing):
        print(path)
