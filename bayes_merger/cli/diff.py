"""``diff``: how models differ, block by block, without drawing anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console

from bayes_merger.cli.arguments import Parser, png_path
from bayes_merger.errors import ConfigError, StorageError, trouble


def diff(arguments: Sequence[str]) -> None:
    """Compare two or three models.

    Raises:
        CheckpointError: a file that cannot be used.
        ConfigError: arguments that make no sense.
        StorageError: the picture cannot be written.
    """
    parser = Parser(
        prog="bayes-merger diff",
        description="How models differ, by block and by part of blocks: cosine, relative norm of the difference, share "
        "of identical tensors; who is whose fine-tune; what only some have. A LoRA as B or C is seen on model A.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="A and B, and C, which may be their ancestor")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument("--png", help="a heat map, blocks by parts of blocks")
    options = parser.parse_args(arguments)
    if len(options.models) not in (2, 3):
        raise ConfigError(f"diff: takes two or three models, not {len(options.models)}; give  A B  or  A B C")
    picture = None if options.png is None else png_path(options.png)
    from bayes_merger.merging.engine.difference import difference
    from bayes_merger.merging.models.opening import open_each

    models = open_each(dict(zip("abc", options.models, strict=False)))
    try:
        from bayes_merger.report import difference as shown

        found = difference(models, _step)
        if options.json:
            print(json.dumps(shown.as_data(found), indent=2))
        else:
            console = Console()
            for table in shown.tables(found):
                console.print(table)
            print(*shown.words(found), sep="\n")
        if picture:
            shown.heat_map(found, picture)
            print(f"wrote {picture}", file=sys.stderr)
    except OSError as error:
        raise StorageError(trouble(error) or f"{picture}: {error}") from error
    finally:
        for model in models.values():
            model.close()


def _step(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rcompared {done} of {total} tensors ", end="" if done < total else "\r", file=sys.stderr, flush=True)
