"""What the commands that serve pages have in common: where to listen, the link, the browser."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute


def add_server(parser: argparse.ArgumentParser) -> None:
    """The arguments that say where pages are served, and for whom."""
    parser.add_argument("--host", default="127.0.0.1", help="where to listen: this machine alone, or 0.0.0.0")
    parser.add_argument("--port", type=int, help="the first free one from 8300 on by default")
    parser.add_argument(
        "--name", action="append", default=[], help="a further name under which others know this machine"
    )
    parser.add_argument("--rater", default=getpass.getuser(), help="who rates; the login name by default")
    parser.add_argument("--no-browser", action="store_false", dest="browser", help="only print the link")


def serve_pages(routes: Sequence[BaseRoute], path: str, options: argparse.Namespace, *, child: bool = False) -> None:
    """Serve until Ctrl-C.

    Args:
        routes: of the pages and their data.
        path: of the page that is opened first.
        options: as :func:`add_server` has them.
        child: only say that the pages are there, to a parent that prints the links.

    Raises:
        ConfigError: no place to listen at.
    """
    from bayes_merger.web.app import build_app
    from bayes_merger.web.guard import kept_token, local_names
    from bayes_merger.web.serving import link, links, listen, open_browser, serve

    token = kept_token()
    app = build_app(routes, token, home=path, names={*local_names(options.host), *options.name})
    with listen(options.host, options.port) as listening:
        for line in ["here"] if child else links(listening, path, token):
            print(line, flush=True)
        if options.browser:
            open_browser(link(listening, path, app.ticket()))
        serve(app, listening)
