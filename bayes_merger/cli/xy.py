"""``xy``: a grid of pictures over two or three axes: weights, rules, models, methods, seeds, prompts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, Interrupted, StorageError, trouble
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from bayes_merger.config import RunConfig
    from bayes_merger.run.xy.axes import Axis
    from bayes_merger.run.xy.drawing import Pictures
    from bayes_merger.run.xy.grid import Grid
    from bayes_merger.scoring.scorer import Scorer

MOST = 2000
"""Cells of a grid that is drawn without being asked for twice."""

ABOUT = """\
kinds of axes, KIND=VALUES; values are parted by commas, or by | or lines where they hold commas; @FILE reads them:
  OUT05.alpha=0,0.25,0.5,1     a weight of blocks; OUT03-OUT05.alpha, OUT04.alpha+OUT07.alpha, alpha=0-1 [5]
  alpha="0.5|GRAD_V|0,1,..."   a weight of all blocks: numbers, weight strings, presets
  elements="|OUT05::1|..."     sets of elemental rules, parted by | or blank lines; an empty first one is without rules;
                               add_elements= adds each to those of elements=
  pinpoint_blocks=IN07,OUT05   a block alone, and pinpoint_elements=OUT05:,OUT05:attn2 a part of it, each by the values
                               of another axis: y="alpha=0,0.5,1"
  model_b=FILE,FILE            models; method=, vae=, clip=, an option of the method, and other settings of a merge
  seed= steps= cfg= sampler= scheduler= width= prompt= and every other field of a payload; payload=NAME,NAME
  replace=cat,dog,fox          the first text, searched in the prompts and replaced by each
"""


def xy(arguments: Sequence[str]) -> None:
    """Draw a grid, and write it as pictures and as a page.

    Raises:
        ConfigError: arguments or settings that make no sense.
        CheckpointError: a model file that cannot be used.
        StorageError: a file cannot be written.
        Interrupted: the user asked to stop.
    """
    import argparse

    parser = Parser(
        prog="bayes-merger xy",
        description="A grid of pictures: x=KIND=VALUES are its columns, y= its rows, z= its pages.",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="+", metavar="key=value", help="x=, y=, z=; models, payloads and generator "
                        "as for run; weights and rules as for merge")  # fmt: skip
    parser.add_argument("--out", default="grid", help="the folder (default: grid)")
    parser.add_argument(
        "--resume", action="store_true", help="draw what is not yet in the folder, with these axes or others"
    )
    parser.add_argument("--yes", action="store_true", help=f"even if there are more than {MOST:,} cells")
    options = parser.parse_args(list(arguments))
    out = user_path(options.out)
    if out.exists() and (not out.is_dir() or (not options.resume and any(out.iterdir()))):
        way_out = "add  --resume  to go on there, or give another name" if out.is_dir() else "give another name"
        raise ConfigError(f"--out: {out} is there already; {way_out}")
    try:
        _draw(options.settings, out, sure=options.yes)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; the same command with  --resume  goes on in {out}") from None
    except OSError as error:
        raise StorageError(trouble(error) or f"{out}: {error}") from error


def _draw(words: Sequence[str], out: Path, *, sure: bool) -> None:
    from bayes_merger.merges.cells import Cells, is_number
    from bayes_merger.run.draw import check_here
    from bayes_merger.run.xy.axes import PLACES, read_axes
    from bayes_merger.run.xy.drawing import draw_grid, judge

    split = [word.partition("=") for word in words]
    axes = read_axes([(name, text) for name, equals, text in split if name in PLACES and equals])
    if (count := prod(len(axis.values) for axis in axes)) > MOST and not sure:
        raise ConfigError(f"xy: {count:,} cells are more than {MOST:,}; give shorter axes, or add  --yes")
    others = [word for word in words if word.partition("=")[0] not in PLACES]
    numbers = dict(word.split("=", 1) for word in others if is_number(word) and "=" in word)
    config = _config([word for word in others if word.partition("=")[0] not in numbers], axes)
    check_here(config)
    scorers = _scorers(config) if any(word.startswith("scorers=") for word in others) else {}
    cells = Cells(config, numbers)
    try:
        grid = cells.grid(axes)
        for line in (*cells.notes(), *cells.find_orders(steps.matching, steps.note)):
            steps.note(line)
        out.mkdir(parents=True, exist_ok=True)
        merges = len({cell.merge.key for cell in grid.cells.values()})
        rest = "; what they do not merge stays model A, alpha=NUMBER changes that" if cells.leaves_a(axes) else ""
        print(f"{len(grid.cells):,} cells, {merges:,} distinct merges{rest}", flush=True)
        columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("drawing")
            pictures = draw_grid(
                grid, config, out / "pictures", lambda done, total: bar.update(task, completed=done, total=total)
            )
        for line in judge(grid, pictures, scorers) if scorers else ():
            print(f"note: not judged: {line}", file=sys.stderr)
        _write(grid, pictures, out)
    finally:
        cells.close()


def _config(words: Sequence[str], axes: Sequence[Axis]) -> RunConfig:
    """The settings of a run, with models and payloads that an axis names."""
    from bayes_merger import compose
    from bayes_merger.run.checks import check_without_trials
    from bayes_merger.run.xy.axes import PAYLOAD

    given = {word.partition("=")[0] for word in words}
    check_without_trials(given)
    models = [f"{axis.kind}={axis.values[0]}" for axis in axes if axis.kind.startswith("model_")]
    words = [*words, *(word for word in models if word.partition("=")[0] not in given)]
    config = compose.validate(compose.compose_run(words))
    names = [name for axis in axes if axis.kind == PAYLOAD for name in axis.values]
    if "payloads" in given or set(names) <= set(config.payloads):
        return config
    return compose.validate(compose.compose_run([*words, f"payloads={','.join(names)}"]))


def _scorers(config: RunConfig) -> dict[str, Scorer]:
    """Who gives each cell points, ready."""
    from bayes_merger import compose
    from bayes_merger.scoring.scores import prepare_scorers

    scorers = compose.build_scorers(config.scorers)
    for name, scorer in scorers.items():
        if scorer.interactive:
            raise ConfigError(f"scorers: {name} asks a person; leave it out")
    prepare_scorers(scorers.values())
    return scorers


def _write(grid: Grid, pictures: Pictures, out: Path) -> None:
    from bayes_merger.report.grid_page import write_page
    from bayes_merger.report.grid_sheet import write_sheets

    for reason in dict.fromkeys(pictures.failed.values()):
        count = sum(pictures.failed.get(pictures.key(cell)) == reason for cell in grid.cells.values())
        print(f"not drawn, {count} of {len(grid.cells)} cells: {reason}", file=sys.stderr)
    names = [path.name for path in write_sheets(grid, pictures, out)]
    write_page(grid, pictures, out / "grid.html")
    print(f"wrote {out}: {', '.join([*names, 'grid.html', 'pictures/'])}")
