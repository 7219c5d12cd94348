"""``effect``: what parts of model B do to model A's pictures, each alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bayes_merger.atomic import write_atomically
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, StorageError, and_more, printable, trouble
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from bayes_merger.imaging.pipelines.pipeline import DrawnImage
    from bayes_merger.run.effect import Effect

MOST = 300
"""Entries that are drawn unless the user says otherwise."""


def effect(arguments: Sequence[str]) -> None:
    """Measure, and write tables and pictures.

    Raises:
        ConfigError: arguments or settings that make no sense.
        CheckpointError: a model file that cannot be used.
        StorageError: a file cannot be written.
    """
    parser = Parser(
        prog="bayes-merger effect",
        description="What parts of model B do to model A's pictures: each is taken over alone, drawn with the "
        "payloads, and compared with A's own picture: percent of values changed by more than 20 of 255, distance "
        "as a tower sees it, and what the scorers say.",
    )
    parser.add_argument("settings", nargs="+", metavar="key=value", help="as for run: model_a=, model_b=, payloads=")
    parser.add_argument(
        "--of",
        action="append",
        metavar="blocks | elements | elements:BLOCK | RULE",
        help="what is taken over (default: blocks); a rule is BLOCKS:ELEMENTS or BLOCKS:ELEMENTS:RATIO; repeatable",
    )
    parser.add_argument("--most", type=int, default=MOST, help=f"entries that are drawn (default: {MOST}), those first "
                        "where the models differ most")  # fmt: skip
    parser.add_argument("--out", default="effect", help="the folder (default: effect)")
    options = parser.parse_intermixed_args(list(arguments))
    out = user_path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} is there already; give another name")
    if options.most < 1:
        raise ConfigError(f"--most: {options.most} is too small; give 1 or more")
    try:
        _measure(options.settings, options.of or ["blocks"], options.most, out)
    except OSError as error:
        raise StorageError(trouble(error) or f"{out}: {error}") from error


def _measure(settings: Sequence[str], wanted: Sequence[str], most: int, out: Path) -> None:
    from bayes_merger import compose, session
    from bayes_merger.merging.engine.difference import difference
    from bayes_merger.report.effect import animate, file_name
    from bayes_merger.run.effect import entries_of, measure, most_promising
    from bayes_merger.run.evaluator import PipelineEvaluator
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.progress import PlainReporter, StopSignal

    plain = compose.compose_run(settings)
    setup = session.make_setup(compose.validate(plain), plain, RunFolder(out))
    try:
        if setup.steps is not None or not {"a", "b"} <= setup.checkpoints.keys():
            raise ConfigError("effect: compares models A and B; give  model_a=FILE model_b=FILE")
        if asking := [name for name, scorer in setup.scorers.items() if scorer.interactive]:
            raise ConfigError(f"scorers: {asking[0]} asks a person; leave it out")
        found = difference({name: setup.checkpoints[name] for name in ("a", "b")})
        entries = entries_of(wanted, found, setup.architecture)
        drawn = most_promising(entries, most)
        if not drawn:
            raise ConfigError(f"effect: the models are equal in all of {and_more([entry.name for entry in entries])}")
        out.mkdir(parents=True, exist_ok=True)
        evaluator = PipelineEvaluator.load(setup, PlainReporter(out / "log.txt"), StopSignal(None))
        done: list[Effect] = []

        def told(one: Effect, before: Sequence[DrawnImage], after: Sequence[DrawnImage]) -> None:
            if not done:
                evaluator.save(out / "pictures" / "model A", before, setup.payloads)
            done.append(one)
            name = file_name(entries.index(one.entry), one)
            evaluator.save(out / "pictures" / name, after, setup.payloads)
            (out / "moving").mkdir(exist_ok=True)
            animate(one, before, after, out / "moving" / f"{name}.webp")
            if sys.stderr.isatty():
                end = "" if len(done) < len(drawn) else "\r"
                print(f"\rdrawn {len(done)} of {len(drawn)} entries ", end=end, file=sys.stderr, flush=True)

        _write(measure(setup, evaluator, entries, most, told), out)
    finally:
        setup.close()


def _write(effects: Sequence[Effect], out: Path) -> None:
    from bayes_merger.report.effect import as_csv, as_data, heat_map, table
    from bayes_merger.run.effect import IDENTICAL, LEFT_OUT

    write_atomically(out / "effect.csv", as_csv(effects))
    write_atomically(out / "effect.json", json.dumps(as_data(effects), indent=2) + "\n")
    heat_map(effects, out / "heat.png")
    Console().print(table(effects))
    whys = {IDENTICAL: "the models are equal there", LEFT_OUT: "the models differ less there than in what was drawn"}
    for status, why in whys.items():
        if names := [one.entry.name for one in effects if one.status == status]:
            print(f"not drawn, {why}: {printable(and_more(names, listed=12), longest=400)}")
    print(f"wrote {out}: effect.csv, effect.json, heat.png, moving/, pictures/")
