"""``rate``: the scoring page of a study."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import Paused

ABOUT = """\
Opens the page on which you rate the pictures of a study, by keyboard or on a phone. Nobody else can open it without
the link that is printed here. Every rating is on the disk before its picture is counted; close the page, end this
command or lose the power as you like, and go on with the same command.

  bayes-merger rate NAME
  bayes-merger rate NAME --host 0.0.0.0      from a phone in the same network; the link is the key, do not hand it on
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
    from bayes_merger.web.answers import NotFound
    from bayes_merger.web.app import build_app
    from bayes_merger.web.guard import kept_token, local_names
    from bayes_merger.web.pages.rating import RatingPages
    from bayes_merger.web.serving import links, listen, serve

    folder = find_study(Path(options.runs), options.study, options.storage or "")
    with Sitting(folder, rater=options.rater) as sitting, listen(options.host, options.port) as listening:

        def sitting_of(study: str) -> Sitting:
            if study != folder.name:
                raise NotFound("no such study is rated here")
            return sitting

        token, path = kept_token(), f"/rate/{folder.name}"
        app = build_app(
            RatingPages(sitting_of).routes(), token, home=path, names={*local_names(options.host), *options.name}
        )
        for line in [] if options.child else links(listening, path, token):
            print(line, flush=True)
        if options.child:
            leave_with_parent()
        with suppress(KeyboardInterrupt):
            serve(app, listening)
    if not options.child:
        raise Paused(f"every rating is kept; go on with  bayes-merger rate {folder.typed}")


def _parser() -> Parser:
    parser = Parser(prog="bayes-merger rate", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", metavar="NAME", help="the study")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen: this machine alone, or 0.0.0.0")
    parser.add_argument("--port", type=int, help="the first free one from 8300 on by default")
    parser.add_argument("--name", action="append", default=[], help="a name under which the page may be asked for")
    parser.add_argument("--rater", default=getpass.getuser(), help="who rates, for the ledger")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", help="the database that has the study, if it is not in its folder")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # of a run, which prints the links
    return parser
