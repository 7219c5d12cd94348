"""``score``: any pictures, judged by the scorers of a search."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from bayes_merger.atomic import write_atomically
from bayes_merger.cli.arguments import Parser, is_setting
from bayes_merger.errors import ConfigError, and_more, counted, printable
from bayes_merger.paths import user_path
from bayes_merger.run.existing import Judged, find_pictures, judge_pictures

FORMATS = (".csv", ".json")

DESCRIPTION = """\
Judge pictures that are there already.

  bayes-merger score pictures --scorers laion,clip
  bayes-merger score a.png b.png --scorers laion --out scores.csv
  bayes-merger score pictures --scorers clip --prompt "a fox in the snow" --json scorers.clip.tower.device=cpu

Prompts are read from the pictures, as web UIs write them; --prompt is for those that have none. Points are all scorers
combined, each with its importance: 0 is bad, 10 is perfect.
"""


def score(arguments: Sequence[str]) -> None:
    """Judge pictures and print what they got, the best first.

    Raises:
        ConfigError: no such picture or scorer, or nothing could be judged.
    """
    options = _parsed(arguments)
    if options.out and user_path(options.out).suffix.lower() not in FORMATS:
        raise ConfigError(f"--out: {options.out} must end in .csv or .json")
    from bayes_merger import compose  # brings Hydra, whom --help does without

    settings = [word for word in options.what if is_setting(word)]
    paths = find_pictures([user_path(word) for word in options.what if word not in settings])
    chosen = [f"scorers=[{options.scorers}]", "model_a=none", "model_b=none", "payloads=[]", *settings]
    scorers = compose.build_scorers(compose.compose_run(chosen)["scorers"])
    rows = judge_pictures(paths, scorers, options.prompt, lambda done: _progress(done, len(paths)))
    rows.sort(key=lambda row: -(row.points if row.points is not None else float("-inf")))
    _complain(rows)
    _print(rows, list(scorers), options)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="bayes-merger score", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", metavar="FOLDER | PICTURE | SETTING=VALUE", help="pictures, and settings")
    parser.add_argument("--scorers", required=True, help="who judges, like laion,clip")
    parser.add_argument("--prompt", default="", help="of the pictures that do not say theirs")
    parser.add_argument("--out", help="a file to write instead: .csv or .json")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON")
    shape.add_argument("--csv", action="store_true", help="print CSV")
    options: argparse.Namespace = parser.parse_args(arguments)
    return options


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rjudged {done} of {total} ", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _complain(rows: Sequence[Judged]) -> None:
    """Say what was not judged, and what was judged without a prompt.

    Raises:
        ConfigError: nothing was judged.
    """
    wrong = [row for row in rows if row.wrong]
    for row in wrong[:10]:
        print(f"note: {printable(f'{row.path}: {row.wrong}', longest=400)}", file=sys.stderr)
    if len(wrong) > 10:
        print(f"note: and {len(wrong) - 10} more that were not judged", file=sys.stderr)
    if not any(row.scores for row in rows):
        raise ConfigError(f"score: none of {len(rows)} pictures could be judged ({wrong[0].wrong})")
    if without := [row.path.name for row in rows if row.scores and not row.prompt]:
        which = printable(and_more(without), longest=200)
        print(f"note: no prompt is known of {which}: scorers that compare with it see none; --prompt gives one",
              file=sys.stderr)  # fmt: skip


def _print(rows: Sequence[Judged], names: Sequence[str], options: argparse.Namespace) -> None:
    out = user_path(options.out) if options.out else None
    if options.json or (out and out.suffix.lower() == ".json"):
        text = json.dumps([_data(row, names) for row in rows], indent=2, ensure_ascii=False) + "\n"
    elif options.csv or out:
        text = _csv(rows, names)
    else:
        Console().print(_table(rows, names))
        return
    if out:
        write_atomically(out, text)
        print(f"{counted(len(rows), 'picture')} in {out}")
    else:
        print(text, end="")


def _data(row: Judged, names: Sequence[str]) -> dict[str, Any]:
    scores = {name: row.scores.get(name) for name in names}
    return {"file": str(row.path), "points": row.points, **scores, "prompt": row.prompt, "wrong": row.wrong}


def _csv(rows: Sequence[Judged], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file", "points", *names, "prompt", "wrong"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in _data(row, names).items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A cell; a spreadsheet must not take a stranger's prompt for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _table(rows: Sequence[Judged], names: Sequence[str]) -> Table:
    table = Table("points", *names, Column("picture", overflow="fold"), "prompt")
    above = os.path.commonpath([row.path.parent for row in rows])  # what all names begin with is not worth saying
    for row in rows:
        numbers = [row.points, *(row.scores.get(name) for name in names)]
        cells = ["" if number is None else f"{number:.3f}" for number in numbers]
        name = printable(os.path.relpath(row.path, above))
        table.add_row(*cells, escape(name), escape(printable(row.prompt, longest=60)))
    return table
