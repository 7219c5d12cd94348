"""``activations``: what a model does with its weights, measured while it draws, shown and merged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser, is_setting, png_path
from bayes_merger.errors import ConfigError, close_to, counted, nearest, printable
from bayes_merger.paths import user_path

HELP = """\
bayes-merger activations MODEL payloads=mine --out A.act.safetensors [--bands 4] [--gradients [8]] [...]
    draw the payloads with one model and sum up what its layers are fed, channel by channel; after a kill the same
    command goes on; --gradients adds, for as many probes of each payload, how much the denoiser depends on each weight
bayes-merger activations show FILE ... [--png heat.png]
    where a model answers to its prompts: blocks by prompts; of two files, the second against the first; the picture
    has blocks by parts of them
bayes-merger activations merge ONE TWO ... --out BOTH.act.safetensors
    several files of one model as one

A merge takes them as saliency.a=A.act.safetensors saliency.b=B.act.safetensors, or as a weight, alpha=act:FILE; see
docs/activations.md.
"""


def activations(arguments: Sequence[str]) -> None:
    """Measure, show or merge activations.

    Raises:
        ConfigError: arguments that make no sense.
        CheckpointError: a file that cannot be used.
    """
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(HELP, end="")
        return
    verbs = {"show": _show, "merge": _merge}
    word = arguments[0]
    if word in verbs:
        verbs[word](arguments[1:])
        return
    settings = [argument for argument in arguments if is_setting(argument) and argument[:1] != "-"]
    if close_to(word, verbs) and not settings and not user_path(word).exists():  # measuring asks for payloads
        raise ConfigError(f"activations: no '{printable(word)}'; {nearest(word, verbs)}")
    _measure(arguments)


def _measure(arguments: Sequence[str]) -> None:
    parser = Parser(prog="bayes-merger activations")
    parser.add_argument("model")
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--out", required=True)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--gradients", type=int, nargs="?", const=8, default=0)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(list(arguments))
    if is_setting(options.model):
        raise ConfigError("activations: takes the model first, like  bayes-merger activations MODEL payloads=mine ...")
    from bayes_merger.cli.payload import settings_of_one

    config = settings_of_one(options.settings, options.model)
    from bayes_merger.run.activations import measure

    def note(text: str) -> None:
        print(printable(text, longest=400), file=sys.stderr)

    out = measure(
        config,
        user_path(options.out),
        note,
        bands=options.bands,
        gradients=options.gradients,
        overwrite=options.overwrite,
        on_step=steps.drawing,
    )
    print(f"wrote {printable(str(out))} ({out.stat().st_size / 1e6:.1f} MB)")


def _found(file: str) -> Path:
    """Where a file is that is given by its path or its name."""
    from bayes_merger.checkpoints.shelves import find_model, shelves

    return user_path(find_model(file, shelves()))


def _show(arguments: Sequence[str]) -> None:
    parser = Parser(prog="bayes-merger activations show")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--png")
    options = parser.parse_args(list(arguments))
    picture = None if options.png is None else png_path(options.png)
    from bayes_merger.checkpoints.activations.sidecar import Sidecar
    from bayes_merger.report.activations import heat_map, summary

    opened = []
    try:
        for file in options.files:
            opened.append(Sidecar(_found(file)))
        print(summary(opened))
        if picture:
            heat_map(opened, picture)
            print(f"wrote {printable(str(picture))}")
    finally:
        for sidecar in opened:
            sidecar.close()


def _merge(arguments: Sequence[str]) -> None:
    parser = Parser(prog="bayes-merger activations merge")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(list(arguments))
    from bayes_merger.checkpoints.activations.sums import merged
    from bayes_merger.checkpoints.writing import check_out

    out = user_path(options.out)
    check_out(out, overwrite=options.overwrite)
    total = merged([_found(file) for file in options.files])
    total.save(out, overwrite=options.overwrite)
    print(f"wrote {printable(str(out))}: {counted(len(total.about.runs), 'run')} of {len(total.sums)} weights")
