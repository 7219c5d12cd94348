"""``rate``: the scoring page of a study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.cli.arguments import Parser
from bayes_merger.cli.pages import add_server, serve_pages
from bayes_merger.errors import Paused

if TYPE_CHECKING:
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.rating.sitting import Sitting

ABOUT = """\
Opens the page on which you rate the pictures of a study, by keyboard or by finger. Nobody can open it without the link
that is printed here. Every rating is on the disk before its picture is counted: close the page, end this command, lose
the power, and go on with the same command.

  bayes-merger rate NAME
  bayes-merger rate NAME --terminal          without a browser, a number and Enter for each picture
  bayes-merger rate NAME --host 0.0.0.0      also from a phone in the same network; whoever has the link can rate
"""


def rate(arguments: Sequence[str]) -> None:
    """Serve the scoring page until Ctrl-C.

    Raises:
        ConfigError: no such study, or no place to listen at.
        Paused: the person went away.
    """
    options = _parser().parse_args(arguments)
    from bayes_merger.run.folder import find_study
    from bayes_merger.run.rating.sitting import Sitting
    from bayes_merger.run.workers import leave_with_parent

    folder = find_study(Path(options.runs), options.study, options.storage)
    if options.terminal:
        _ask(folder, options)
        return
    if options.child:
        leave_with_parent()
    with Sitting(folder, rater=options.rater) as sitting, suppress(KeyboardInterrupt):
        _serve(sitting, options)
    raise Paused(f"every rating is kept; go on with  bayes-merger rate {folder.typed}")


def _ask(folder: RunFolder, options: argparse.Namespace) -> None:
    """The same questions in the terminal, until nothing waits and no run brings more."""
    from bayes_merger.cli.seat import page_beside
    from bayes_merger.run.rating.terminal import sit_in_terminal
    from bayes_merger.scoring.people.terminal import ManualScorer

    scorer = ManualScorer(rater=options.rater, confirm=True)
    scorer.prepare(folder.path)
    try:
        # Pictures are seen better on the page, on the same ledger: its link and, over ssh, the way to it are told.
        with page_beside(folder, print, options.host, options.port) if sys.stdin.isatty() else nullcontext():
            sit_in_terminal(folder, scorer)
    except Paused as paused:
        raise Paused(f"{paused}; go on with  bayes-merger rate {folder.typed} --terminal") from None
    print("nothing waits for you")


def _serve(sitting: Sitting, options: argparse.Namespace) -> None:
    from bayes_merger.web.pages.rating import RatingPages, only

    serve_pages(RatingPages(only(sitting)).routes(), f"/rate/{sitting.folder.name}", options, child=options.child)


def _parser() -> Parser:
    parser = Parser(prog="bayes-merger rate", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", metavar="NAME", help="the study")
    add_server(parser)
    parser.add_argument("--terminal", action="store_true", help="ask here instead of on a page")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if it is not in its folder")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # of a run, which prints the links
    return parser
