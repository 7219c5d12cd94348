"""``rebasin``: a model with its neurons in the order of another's, which draws what it drew."""

from __future__ import annotations

from collections.abc import Sequence

from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import printable
from bayes_merger.paths import user_path

HELP = """\
bayes-merger rebasin A B --out B_aligned.safetensors [--config FOLDER] [--overwrite]
    write B with its neurons in the order in which its weights are most like A's: it draws what it drew, and merges
    better with A where the two were trained apart; of fine-tunes of one base nothing moves, and nothing is written
    --config FOLDER    the diffusers folder with the settings of models of unusual size

See docs/rebasin.md.
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
    parser.add_argument("--out", required=True)
    parser.add_argument("--config")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(list(arguments))
    from bayes_merger.run.rebasin import rebasin as align

    out = user_path(options.out)
    found = align(
        user_path(options.a),
        user_path(options.b),
        out,
        config=user_path(options.config) if options.config else None,
        overwrite=options.overwrite,
        progress=_matching,
        on_write=_writing,
    )
    moved, total = found.permutation.moved(), found.permutation.total()
    if not moved:
        print(f"0 of {total:,} neurons would move: B's order is A's already (likeness of their weights "
              f"{found.before:.4f}); nothing is to be gained, and nothing was written")  # fmt: skip
        return
    print(f"moved {moved:,} of {total:,} neurons; likeness of the weights {found.before:.4f}, now {found.after:.4f}")
    print(f"wrote {printable(str(out))}; it draws what B draws")


def _matching(number: int, done: int, total: int) -> None:
    steps.show(f"matching: round {number}, {done} of {total} layers", last=False)


def _writing(done: int, total: int) -> None:
    steps.show(f"writing: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", last=done >= total)
