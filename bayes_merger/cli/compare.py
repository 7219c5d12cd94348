"""``compare``: two merges side by side, of one study or of two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, counted, printable
from bayes_merger.paths import user_path
from bayes_merger.report.comparison import Comparison, Side, comparison, sentence
from bayes_merger.report.contact_sheet import sheet
from bayes_merger.report.thumbnails import write_image
from bayes_merger.run.folder import find_study, load
from bayes_merger.run.record import trial_of

HOW = "compare NAME TRIAL TRIAL, compare NAME TRIAL OTHER TRIAL, or compare NAME OTHER"


def compare(arguments: Sequence[str]) -> None:
    """Print two merges side by side, and write their pictures as one.

    Raises:
        ConfigError: no such study or trial.
        StorageError: the picture cannot be written.
    """
    parser = Parser(
        prog="bayes-merger compare",
        description="Two merges side by side: pictures of the same prompt and seed, what differs, and whether one is "
        f"better. {HOW}; best is a study's best merge.",
    )
    parser.add_argument("what", nargs="+", metavar="NAME | TRIAL", help="studies, each with its trials")
    parser.add_argument("--out", help="the picture (default: compare-TRIAL-TRIAL.png in the first study's folder)")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    options = parser.parse_args(arguments)
    first, second = _sides(Path(options.runs), options.what)
    found = comparison(first, second)
    if options.json:
        print(json.dumps(asdict(found), indent=2, default=str))
        return
    _print(found)
    name = f"compare-{first.trial.number}-{second.trial.number}.png"
    path = user_path(options.out) if options.out else first.folder.path / name
    if any(shot.path for pair in found.pairs for shot in (pair.first, pair.second)):
        write_sheet(found, path)
        print(f"side by side: {path}")
    else:
        print("no picture of both is kept")


def _sides(runs: Path, words: Sequence[str]) -> tuple[Side, Side]:
    """The two merges that are meant.

    Raises:
        ConfigError: one merge, or three, or no such study or trial.
    """
    merges: list[tuple[str, str]] = []
    name = ""
    for word, follows in zip(words, [*words[1:], ""], strict=True):
        if name and _is_trial(word):
            merges.append((name, word))
        else:
            name = word
            if not _is_trial(follows):
                merges.append((name, "best"))
    if len(merges) != 2:
        raise ConfigError(f"compare: {counted(len(merges), 'merge')}, not two; say  {HOW}")
    first, second = (_side(runs, *merge) for merge in merges)
    return first, second


def _is_trial(word: str) -> bool:
    return word.isdecimal() or word == "best"


def _side(runs: Path, name: str, trial: str) -> Side:
    folder = find_study(runs, name)
    study = load(folder)
    return Side(study, folder, trial_of(study, None if trial == "best" else int(trial)))


def _print(found: Comparison) -> None:
    console = Console(markup=False)
    first, second = printable(found.first), printable(found.second)
    table = Table(title=f"{first}  against  {second}", title_justify="left")
    for column in ("payload", "seed", "first", "second", "second leads by"):
        table.add_column(column, justify="left" if column == "payload" else "right")
    for pair in found.pairs:
        points = ["" if shot.points is None else f"{shot.points:.3f}" for shot in (pair.first, pair.second)]
        lead = "" if pair.lead is None else f"{pair.lead:+.3f}"
        table.add_row(*map(Text, (printable(pair.payload), str(pair.seed), *points, lead)))
    console.print(table)
    if found.unlike:
        print(f"their points are not compared: {found.unlike}")
    elif found.test:
        print(sentence(found.test, second))
    elif not found.pairs:
        print("they have no prompt and seed in common")
    if found.weights:
        _print_weights(console, found)


def _print_weights(console: Console, found: Comparison, most: int = 12) -> None:
    table = Table("weight", "first", "second", "difference", title="weights that differ most", title_justify="left")
    for name, one, other in found.weights[:most]:
        numbers = ["" if number is None else f"{number:.3f}" for number in (one, other)]
        table.add_row(name, *numbers, f"{other - one:+.3f}" if one is not None and other is not None else "")
    console.print(table)
    if len(found.weights) > most:
        print(f"and {len(found.weights) - most} more: --json has them")


def write_sheet(found: Comparison, path: Path) -> None:
    """The pairs as one picture.

    Raises:
        ConfigError: there is no picture.
        StorageError: it cannot be written.
    """
    names = [(pair.payload, number) for number, pair in enumerate(found.pairs)]
    sides = {
        found.first: [pair.first.path for pair in found.pairs],
        found.second: [pair.second.path for pair in found.pairs],
    }
    columns = {
        printable(title): {name: path for name, path in zip(names, paths, strict=True) if path}
        for title, paths in sides.items()
    }
    captions = {
        name: f"{printable(pair.payload)}, seed {pair.seed}" for name, pair in zip(names, found.pairs, strict=True)
    }
    write_image(sheet(columns, captions), path)
