"""``rebasin``: a model with its neurons in the order of another's, which draws what it drew."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, printable
from bayes_merger.merging.rebasin.settings import ACTIVATIONS, BY, WEIGHTS
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from bayes_merger.run.rebasin import Match

HELP = """\
bayes-merger rebasin A B [--out B_aligned.safetensors] [--config FOLDER] [--overwrite]
    write B with its neurons in the order in which its weights are most like A's: it draws what it drew, and merges
    better with A where the two were trained apart; of fine-tunes of one base nothing moves, and nothing is written
    without --out it is only said how many would move
    --config FOLDER    the diffusers folder with the settings of models of unusual size
bayes-merger rebasin A B --by activations payloads=mine [--out B_aligned.safetensors] [...]
    the same, but in the order in which B's neurons answer most like A's while both draw the payloads, with settings as
    for run; by weights is cheaper and surer

A merge, a run or a recipe takes B so without a file of its own: "model_b={rebasin: B.safetensors, to: a}". What was
found is remembered. See docs/rebasin.md.
"""


def rebasin(arguments: Sequence[str]) -> None:
    """Align a model's neurons with another's.

    Raises:
        ConfigError: arguments that make no sense.
        CheckpointError: a file that cannot be used.
    """
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(HELP, end="")
        return
    parser = Parser(prog="bayes-merger rebasin")
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--by", choices=BY, default=WEIGHTS)
    parser.add_argument("--out")
    parser.add_argument("--config")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(list(arguments))
    from bayes_merger.run.rebasin import rebasin as align

    out = user_path(options.out) if options.out else None
    found = align(
        user_path(options.a),
        user_path(options.b),
        out,
        config=user_path(options.config) if options.config else None,
        by_activations=_by_activations(options),
        overwrite=options.overwrite,
        progress=steps.matching,
        on_write=steps.writing,
    )
    print(printable(found.words("B", "A"), longest=400))
    written = out is not None and found.permutation.moved()
    print(f"wrote {printable(str(out))}; it draws what B draws" if written else "nothing was written")


def _by_activations(options: Namespace) -> Match | None:
    """What finds the order by activations, if that is asked for."""
    if options.by != ACTIVATIONS:
        if options.settings:
            raise ConfigError(f"{printable(options.settings[0])}: only  --by activations  draws; leave it out")
        return None
    from bayes_merger.cli.payload import settings_of_one
    from bayes_merger.run.matching import match_drawing

    given = [f"generator.config={options.config}"] if options.config else []
    config = settings_of_one([*options.settings, *given], options.a)
    return partial(match_drawing, config=config, progress=steps.matching, on_step=steps.drawing, note=steps.note)
