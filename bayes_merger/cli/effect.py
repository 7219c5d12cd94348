"""``effect``: what parts of model B do to model A's pictures, each alone."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bayes_merger.atomic import write_atomically
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, StorageError, and_more, printable, trouble
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from bayes_merger.imaging.pipelines.pipeline import DrawnImage
    from bayes_merger.run.effect.entries import Entry
    from bayes_merger.run.effect.kept import Kept
    from bayes_merger.run.effect.measuring import Effect
    from bayes_merger.run.evaluator import PipelineEvaluator
    from bayes_merger.run.setup import RunSetup

MOST = 300
"""Entries that are drawn unless the user says otherwise."""

_LOOKED_AT = ("dtype", "vae", "blocks", "channels")  # of a merge's settings


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
    parser.add_argument("--activations", metavar="A.act.safetensors", help="measured on model A: of too many entries "
                        "those come first where the models differ most in what the layers are fed")  # fmt: skip
    parser.add_argument("--out", default="effect", help="the folder (default: effect)")
    parser.add_argument("--resume", action="store_true", help="go on in the folder: what was measured there is kept")
    options = parser.parse_args(list(arguments))
    out = user_path(options.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is no folder; give another name")
    if out.exists() and any(out.iterdir()) and not options.resume:
        raise ConfigError(f"--out: {out} is there already; give another name, or go on with  --resume")
    if options.most < 1:
        raise ConfigError(f"--most: {options.most} is too small; give 1 or more")
    try:
        _measure(options, out)
    except OSError as error:
        raise StorageError(trouble(error) or f"{out}: {error}") from error


def _measure(options: Namespace, out: Path) -> None:
    from bayes_merger import compose
    from bayes_merger.run.effect.entries import most_promising
    from bayes_merger.run.effect.kept import Kept
    from bayes_merger.run.effect.measuring import measure
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.setups import make_setup

    plain = compose.compose_run(options.settings)
    setup = make_setup(compose.validate(plain), plain, RunFolder(out))
    try:
        _check(setup)
        kept = Kept(out, _marks(setup, plain))
        entries = _entries(setup, options.of or ["blocks"], options.activations)
        chosen = most_promising(entries, options.most)
        if not chosen:
            raise ConfigError(f"effect: the models are equal in all of {and_more([entry.name for entry in entries])}")
        known = kept.find(chosen)
        kept.begin()
        for note in setup.notes:
            print(f"note: {printable(note, longest=400)}", file=sys.stderr)

        drawing = _Drawing(setup, kept, out, len(known), len(chosen))
        _write(measure(setup, drawing.begin, entries, options.most, drawing.keep, known), setup, out)
    finally:
        setup.close()


def _check(setup: RunSetup) -> None:
    """Refuse what is no comparison of A with parts of B.

    Raises:
        ConfigError: naming the setting.
    """
    from bayes_merger.run.models import merge_settings

    if setup.steps is not None or not {"a", "b"} <= setup.checkpoints.keys():
        raise ConfigError("effect: compares models A and B; give  model_a=FILE model_b=FILE")
    if odd := [name for name in merge_settings(setup.config).changed() if name not in _LOOKED_AT]:
        raise ConfigError(f"{odd[0]}: effect takes numbers of B as they are; leave {odd[0]} out")
    if asking := [name for name, scorer in setup.scorers.items() if scorer.interactive]:
        raise ConfigError(f"scorers: {asking[0]} asks a person; leave it out")


def _marks(setup: RunSetup, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the numbers of one folder comparable: all that does so in a study, but for what is searched."""
    from bayes_merger.run.fingerprint import fingerprint
    from bayes_merger.run.versions import versions_here

    marks = {**fingerprint(setup, settings["scorers"]), "versions": versions_here(setup.config.generator.device)}
    return {name: value for name, value in marks.items() if name != "space"}


def _entries(setup: RunSetup, wanted: Sequence[str], activations: str | None) -> list[Entry]:
    from bayes_merger.checkpoints.activations.sidecar import Sidecar
    from bayes_merger.checkpoints.shelves import find_model, shelves
    from bayes_merger.merging.engine.difference import difference
    from bayes_merger.run.effect.entries import entries_of
    from bayes_merger.run.effect.promise import weighted_sums

    found = difference({name: setup.checkpoints[name] for name in ("a", "b")})
    if activations is None:
        return entries_of(wanted, found, setup.architecture)
    file = find_model(activations, shelves(setup.config.models_dir))
    with closing(Sidecar(user_path(file))) as sidecar:
        return entries_of(wanted, found, setup.architecture, weighted_sums(found, sidecar))


class _Drawing:
    """Draws what is left, writes it as it comes, and says how far it is."""

    def __init__(self, setup: RunSetup, kept: Kept, out: Path, done: int, total: int) -> None:
        self._setup, self._kept, self._out = setup, kept, out
        self._done, self._total = done, total
        self._evaluator: PipelineEvaluator | None = None

    def begin(self) -> PipelineEvaluator:
        """Load the pipeline and the judges."""
        from bayes_merger.run.evaluator import PipelineEvaluator
        from bayes_merger.run.progress import PlainReporter, StopSignal

        if self._done:
            print(f"{self._done} of {self._total} entries were drawn before", file=sys.stderr)
        self._evaluator = PipelineEvaluator.load(self._setup, PlainReporter(self._out / "log.txt"), StopSignal(None))
        return self._evaluator

    def keep(self, effect: Effect, before: Sequence[DrawnImage], after: Sequence[DrawnImage]) -> None:
        """Write the pictures of an entry, then what they say."""
        from bayes_merger.report.effect import MODEL_A, animate, file_name

        assert self._evaluator is not None
        name, pictures = file_name(effect.entry), self._out / "pictures"
        self._evaluator.save(pictures / MODEL_A, before, self._setup.payloads)
        self._evaluator.save(pictures / name, after, self._setup.payloads)
        (self._out / "moving").mkdir(exist_ok=True)
        animate(effect, before, after, self._out / "moving" / f"{name}.webp")
        self._kept.add(effect)
        self._done += 1
        if sys.stderr.isatty():
            end = "" if self._done < self._total else "\r"
            print(f"\rdrawn {self._done} of {self._total} entries ", end=end, file=sys.stderr, flush=True)


def _write(effects: Sequence[Effect], setup: RunSetup, out: Path) -> None:
    from bayes_merger.report.effect import checker, heat_map, table
    from bayes_merger.run.effect.measuring import IDENTICAL, LEFT_OUT
    from bayes_merger.run.effect.table import as_csv, as_data

    lines = as_data(effects, {name: setup.checkpoints[name].sha256() for name in ("a", "b")})
    write_atomically(out / "effect.csv", as_csv(lines))
    write_atomically(out / "effect.json", json.dumps(lines, indent=2) + "\n")
    heat_map(effects, out / "heat.png")
    checker(effects, out / "pictures", out / "checker.png")
    shown = table(effects)
    needed = Console(width=500).measure(shown).maximum  # what a person types is never cut
    Console(width=max(Console().width, needed)).print(shown)
    whys = {IDENTICAL: "the models are equal there", LEFT_OUT: "less is to be expected there"}
    for status, why in whys.items():
        if names := [one.entry.name for one in effects if one.status == status]:
            print(f"not drawn, {why}: {printable(and_more(names, listed=12), longest=400)}")
    print(f"wrote {out}: effect.csv, effect.json, heat.png, checker.png, moving/, pictures/")
